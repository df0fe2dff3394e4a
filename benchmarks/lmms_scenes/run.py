"""lmms-eval on the bundled model, against the demo's own evaluation of the same samples.

    python benchmarks/lmms_scenes/run.py [--scenes 100] [--seed 2026] [--retention 0.55]
        [--strategies none,lightkv,lightkv@demo] [--batch-size 20] [--out FILE] [--keep FOLDER]

Writes the digit scenes as a local task in lmms-eval's own YAML format, runs `python -m lmms_eval
--model lightkv` on it offline, once for each strategy, and compares every answer with the one that
`lightkv.demo.asking.answer` gives. Exit code 1 if any score differs. Needs `lightkv[lmms-eval]`.

`none` is the uncompressed model. A preset runs with `retention=`, whose schedule rounds to whole
tokens; with `@demo` behind it, it runs from a pipeline file with the schedule that `lightkv demo`
uses, which is set so that the retention is achieved.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightkv.checkpoints.load import quiet_libraries
from lightkv.demo.asking import answer, batches
from lightkv.demo.scenes import COLOR_WORDS, DIGIT_WORDS, KINDS, held_out_scenes, score

TASK = Path(__file__).parent / "task"
TASKS = ("scenes_short", "scenes_list")
SHORT, LIST = TASKS
NONE = "none"
AS_DEMO = "@demo"


def rows_of(samples: list[Any]) -> list[dict[str, Any]]:
    """One row for each question, scene by scene."""
    rows = []
    for number, (scene, questions) in enumerate(samples):
        packed = io.BytesIO()
        scene.image.save(packed, "PNG")
        for question in questions:
            words = COLOR_WORDS if question.kind == "digit_to_color" else DIGIT_WORDS
            words = ("yes", "no") if question.kind == "exists" else words
            rows.append(
                {
                    "id": f"{number}-{question.kind}",
                    "image": {"bytes": packed.getvalue(), "path": None},
                    "kind": question.kind,
                    "question": question.text,
                    "answer": question.answer,
                    "choices": list(words),
                }
            )
    return rows


def write_task(folder: Path, samples: list[Any]) -> dict[str, list[str]]:
    """The task's YAML files, its functions and its data in `folder`; task → ids of its rows."""
    from datasets import Dataset, Image, disable_progress_bars

    disable_progress_bars()
    rows = rows_of(samples)
    folder.mkdir(parents=True, exist_ok=True)
    ids = {}
    for task, wanted in ((SHORT, False), (LIST, True)):
        chosen = [row for row in rows if (row["kind"] == "list") is wanted]
        data = Dataset.from_list(chosen).cast_column("image", Image())
        data.to_parquet(folder / f"{task.removeprefix('scenes_')}.parquet")
        ids[task] = [row["id"] for row in chosen]
    for path in TASK.iterdir():
        if path.suffix in (".yaml", ".py"):
            (folder / path.name).write_text(path.read_text().replace("@DATA@", folder.as_posix()))
    return ids


def source_of(strategy: str, retention: float, folder: Path) -> tuple[str | None, float | None]:
    """Pipeline and retention to give to lightkv: a preset with its retention, or a file with stages."""
    from lightkv.demo import compare as demo
    from lightkv.demo.model import load

    if strategy == NONE:
        return None, None
    if not strategy.endswith(AS_DEMO):
        return strategy, retention
    model, _ = load()
    runner = demo._runner(model, strategy.removesuffix(AS_DEMO), retention)
    if runner.session is None:
        raise SystemExit(runner.row.error)
    path = folder / f"{strategy}.yaml"
    path.write_text(runner.session.pipeline.to_yaml())
    return str(path), None


def model_args(source: str | None, retention: float | None) -> str:
    """As for the command line of lmms-eval."""
    args = "pretrained=demo,dtype=float32,device=cpu"
    args += "" if source is None else f",strategy={source}"
    return args + ("" if retention is None else f",retention={retention}")


def run_harness(
    task: Path,
    out: Path,
    args: str,
    tasks: tuple[str, ...] = TASKS,
    batch_size: int = 20,
    model: str = "lightkv",
) -> tuple[dict[str, dict[int, dict[str, Any]]], float]:
    """Run lmms-eval in a process of its own: task → number of the row → its logged sample, and the
    retention that it reports.

    Raises:
        RuntimeError: it wrote no results; the message is its output.
    """
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    cache = {"HF_DATASETS_CACHE": str(task / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "lmms_eval", "--model", model, "--model_args", args]
    command += ["--tasks", ",".join(tasks), "--include_path", str(task), "--log_samples"]
    command += ["--batch_size", str(batch_size), "--output_path", str(out)]
    done = subprocess.run(
        command, env=os.environ | offline | cache, capture_output=True, text=True, check=False
    )
    written = sorted(out.rglob("*_results.json"))  # the names begin with the time
    if not written:
        raise RuntimeError(f"lmms-eval wrote no results:\n{done.stdout}\n{done.stderr}")
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for name in tasks:
        path = max(out.rglob(f"*_samples_{name}.jsonl"))
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found[name] = {line["doc_id"]: line for line in lines}
    results = json.loads(written[-1].read_text())
    return found, results.get("throughput", {}).get("avg_retention", 1.0)


def said(sample: dict[str, Any]) -> str:
    """The model's answer in a logged sample."""
    text = sample["filtered_resps"]
    while isinstance(text, list):
        text = text[0]
    return str(text).strip()


@contextlib.contextmanager
def loaded(source: str | None, retention: float | None) -> Iterator[tuple[Any, Any]]:
    """The demo's model and processor, compressed if there is a pipeline."""
    import lightkv
    from lightkv.demo.model import load

    model, processor = load()
    if source is None:
        yield model, processor
        return
    with lightkv.compress(model, source, retention=retention):
        yield model, processor


def run_demo(
    samples: list[Any], source: str | None, retention: float | None
) -> dict[str, tuple[str, float]]:
    """Id of a question → answer and score, as `lightkv demo` finds them."""
    numbers = {id(scene): number for number, (scene, _) in enumerate(samples)}
    found = {}
    with loaded(source, retention) as (model, processor):
        for kind in KINDS:
            for scenes, questions in batches(samples, kind, 64):
                texts = answer(model, processor, scenes, questions)
                for scene, question, text in zip(scenes, questions, texts, strict=True):
                    name = f"{numbers[id(scene)]}-{kind}"
                    found[name] = (text, score(question, text))
    return found


def compare(
    logged: dict[str, dict[int, dict[str, Any]]],
    ids: dict[str, list[str]],
    demo: dict[str, tuple[str, float]],
) -> dict[str, Any]:
    """Accuracies of both by kind of question, and what differs.

    Raises:
        ValueError: not the same samples.
    """
    harness = {ids[task][row]: line for task in TASKS for row, line in logged[task].items()}
    if harness.keys() != demo.keys():
        raise ValueError("lmms-eval and the demo answered different questions")
    table = {}
    for kind in KINDS:
        names = [name for name in demo if name.endswith(f"-{kind}")]
        table[str(kind)] = {
            "questions": len(names),
            "lmms_eval": sum(harness[name]["scenes_score"] for name in names) / len(names),
            "demo": sum(demo[name][1] for name in names) / len(names),
        }
    return {
        "kinds": table,
        "questions": len(demo),
        "lmms_eval": sum(sample["scenes_score"] for sample in harness.values()) / len(demo),
        "demo": sum(value for _, value in demo.values()) / len(demo),
        "other_answers": sum(said(harness[name]) != demo[name][0] for name in demo),
        "other_scores": sum(harness[name]["scenes_score"] != demo[name][1] for name in demo),
    }


def line(strategy: str, found: dict[str, Any]) -> str:
    """One row for the screen."""
    ours, theirs = 100 * found["lmms_eval"], 100 * found["demo"]
    return (
        f"{strategy:12}  retention {found['retention']:.3f}  lmms-eval {ours:.2f} %  "
        f"demo {theirs:.2f} %  of {found['questions']} questions; "
        f"other answers: {found['other_answers']}, other scores: {found['other_scores']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--retention", type=float, default=0.55)
    parser.add_argument("--strategies", default=f"{NONE},lightkv,lightkv{AS_DEMO}")
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--keep", type=Path, help="a folder for the task and lmms-eval's files")
    args = parser.parse_args()
    quiet_libraries()
    samples = held_out_scenes(args.scenes, args.seed)
    figures: dict[str, Any] = {"scenes": args.scenes, "seed": args.seed}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.keep or Path(temporary)).resolve()
        ids = write_task(folder / "task", samples)
        for strategy in args.strategies.split(","):
            source, retention = source_of(strategy, args.retention, folder)
            out, given = folder / "out" / strategy, model_args(source, retention)
            logged, achieved = run_harness(folder / "task", out, given, batch_size=args.batch_size)
            found = compare(logged, ids, run_demo(samples, source, retention))
            figures[strategy] = {"retention": achieved, **found}
            print(line(strategy, figures[strategy]), flush=True)
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")
    if any(found["other_scores"] for found in figures.values() if isinstance(found, dict)):
        sys.exit(1)


if __name__ == "__main__":
    main()
