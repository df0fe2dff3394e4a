"""vLLM with lightkv against transformers with lightkv: the same questions, token for token.

    python benchmarks/vllm/compare.py [--questions 1500] [--others 300] [--only NAME …] [--json FILE]

The bundled model answers held-out scenes in float32, greedily, up to 16 requests at once, with text-only
prompts and prompts of two pictures among them. Each setting runs in a process of its own: first in
transformers, one prompt at a time; then in the engine, where the blocks of each request and group are
compared with the counted ones at every step. `tight` gives the engine so few blocks that it preempts,
and asks for long answers. `chunked …` lets a step compute fewer tokens than some prompts have. `ratio 0`
compares log-probabilities with those of vLLM's own model, bit for bit.

The exit status is 1 unless every answer, every block and every log-probability is equal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.append(str(HERE))
from server import ENVIRONMENT  # noqa: E402

BLOCK_SIZE = 32
SEED = 2026
AT_ONCE = 16


@dataclass(frozen=True)
class Setting:
    """What is compared.

    Attributes:
        pipeline: preset, None for the uncompressed model.
        options: of lightkv.
        share: of `--questions` (1) or of `--others`.
        new_tokens: of an answer, at most.
        least: of an answer; more than the model would say makes requests grow.
        blocks: of the KV cache, None for plenty.
        engine: arguments of the engine beside these.
    """

    pipeline: str | None
    options: dict[str, Any] = field(default_factory=dict)
    first: bool = False
    new_tokens: int = 16
    least: int = 0
    blocks: int | None = None
    engine: dict[str, Any] = field(default_factory=dict)


SETTINGS = {
    "lightkv 0.55": Setting("lightkv", {"retention": 0.55}, first=True),
    "vanilla": Setting(None),
    "lightkv 0.35": Setting("lightkv", {"retention": 0.35}),
    "lightkv-plus 0.35": Setting("lightkv-plus", {"retention": 0.35}),
    "fastv 0.35": Setting("fastv", {"retention": 0.35}),
    "tome 0.55": Setting("tome", {"retention": 0.55}),
    "tight": Setting("lightkv", {"retention": 0.55}, new_tokens=64, least=64, blocks=260),
    "chunked tome": Setting("tome", {"retention": 0.55}, engine={"max_num_batched_tokens": 320}),
    "chunked dart": Setting("dart", {"retention": 0.55}, engine={"max_num_batched_tokens": 320}),
}


def questions(count: int) -> list[tuple[str, list[Any]]]:
    """(prompt, pictures): every eighth has no picture, every eighth two."""
    from lightkv.demo.scenes import held_out_scenes, prompt

    found: list[tuple[str, list[Any]]] = []
    scenes = held_out_scenes(max(2, count // 3), seed=SEED)
    for number, (scene, asked) in enumerate(scenes):
        for question in asked:
            text, pictures = prompt(question.text), [scene.image]
            if len(found) % 8 == 3:
                text, pictures = text.replace("<image> ", ""), []
            elif len(found) % 8 == 7:
                text = text.replace("<image>", "<image> <image>")
                pictures = [scene.image, scenes[number - 1][0].image]
            found.append((text, pictures))
    return found[:count]


def engine_prompt(text: str, pictures: Sequence[Any]) -> dict[str, Any]:
    """A question as the engine takes it."""
    return {"prompt": text} | ({"multi_modal_data": {"image": pictures}} if pictures else {})


def in_transformers(setting: Setting, count: int) -> dict[str, Any]:
    """Answers of the bundled model, one prompt at a time, by the schedule that the engine runs."""
    import torch

    import lightkv
    from lightkv.demo.model import load
    from lightkv.integrations.vllm.schedules import serving_pipeline

    torch.set_num_threads(1)
    model, processor = load()
    limits = {"max_new_tokens": setting.new_tokens, "min_new_tokens": setting.least or None}

    def answers() -> list[list[int]]:
        found = []
        for text, pictures in questions(count):
            inputs = processor(images=pictures or None, text=[text], return_tensors="pt")
            with torch.no_grad():
                ids = model.generate(**inputs, **limits, do_sample=False)
            found.append(ids[0, inputs["input_ids"].shape[1] :].tolist())
        return found

    start = time.perf_counter()
    if setting.pipeline is None:
        return {"answers": answers(), "seconds": time.perf_counter() - start}
    layers = model.config.text_config.num_hidden_layers
    chosen = serving_pipeline(setting.pipeline, layers, block_size=BLOCK_SIZE, **setting.options)
    stages = chosen.schedule.to_list()
    with lightkv.compress(model, setting.pipeline, schedule=stages):
        return {"answers": answers(), "seconds": time.perf_counter() - start}


def engine(setting: Setting, model: str) -> Any:
    """The engine, in this process."""
    from vllm import LLM

    from lightkv.integrations.vllm import engine_args

    own: dict[str, Any] = {"model": model, "enable_prefix_caching": False}
    if setting.pipeline is not None:
        own = engine_args(model, setting.pipeline, **setting.options)
    if setting.blocks is not None:
        own["num_gpu_blocks_override"] = setting.blocks
    return LLM(
        **own,
        **{"max_num_batched_tokens": 4096, **setting.engine},
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=AT_ONCE,
        block_size=BLOCK_SIZE,
        limit_mm_per_prompt={"image": 2},
        kv_cache_memory_bytes=256 << 20,
        disable_log_stats=True,
    )


def in_vllm(setting: Setting, count: int) -> dict[str, Any]:
    """Answers of the engine, and what was watched."""
    from vllm import SamplingParams
    from watched import Watch

    with tempfile.TemporaryDirectory() as folder:
        llm = engine(setting, checkpoint(folder, renamed=setting.pipeline is None))
    watch = Watch(llm.llm_engine.engine_core.engine_core.scheduler)
    limits = {"max_tokens": setting.new_tokens, "min_tokens": setting.least}
    prompts = [engine_prompt(*each) for each in questions(count)]
    start = time.perf_counter()
    outputs = llm.generate(prompts, SamplingParams(temperature=0, **limits), use_tqdm=False)
    seconds = time.perf_counter() - start
    answers = [list(output.outputs[0].token_ids) for output in outputs]
    return {"answers": answers, "seconds": seconds, "watch": watch.to_dict()}


def checkpoint(folder: str, *, renamed: bool) -> str:
    """The bundled checkpoint; renamed, with the names that vLLM's own LLaVA wants for the tower."""
    import shutil

    from safetensors.torch import load_file, save_file

    from lightkv.checkpoints.bundled import checkpoint_path

    if not renamed:
        return str(checkpoint_path())
    copy = Path(folder) / "checkpoint"
    shutil.copytree(checkpoint_path(), copy)
    weights = {
        name.replace("vision_tower.", "vision_tower.vision_model."): weight
        for name, weight in load_file(copy / "model.safetensors").items()
    }
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return str(copy)


def logprobs(compressing: bool, count: int) -> dict[str, Any]:
    """Log-probabilities of answers, of vLLM's own model or of ours with nothing to remove."""
    from vllm import SamplingParams

    setting = Setting("lightkv", {"retention": 1.0}) if compressing else Setting(None)
    with tempfile.TemporaryDirectory() as folder:
        llm = engine(setting, checkpoint(folder, renamed=not compressing))
    prompts = [engine_prompt(*each) for each in questions(count)]
    sampling = SamplingParams(temperature=0, max_tokens=8, logprobs=3)
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    return {
        "answers": [
            [
                sorted((t, v.logprob.hex()) for t, v in step.items())
                for step in o.outputs[0].logprobs
            ]
            for o in outputs
        ]
    }


def part(what: str, name: str, count: int) -> dict[str, Any]:
    """A part of the comparison in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "part.json"
        arguments = ["--part", what, "--name", name, "--count", str(count), "--out", str(out)]
        done = subprocess.run(
            [sys.executable, str(HERE / "compare.py"), *arguments],
            env={**os.environ, **ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{what} {name}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return json.loads(out.read_text())


def compared(name: str, count: int) -> dict[str, Any]:
    """One row of the table."""
    if name == "ratio 0":
        ours, theirs = part("ours", name, count), part("theirs", name, count)
    else:
        ours, theirs = part("vllm", name, count), part("transformers", name, count)
    same = sum(a == b for a, b in zip(ours["answers"], theirs["answers"], strict=True))
    watch = ours.get("watch", {})
    good = same == count and not watch.get("wrong") and not watch.get("left")
    return {
        "name": name,
        "same": same,
        "of": count,
        "watch": watch,
        "seconds": ours.get("seconds"),
        "good": good,
    }


def report(row: dict[str, Any]) -> str:
    """A row as a line."""
    watch = row["watch"]
    blocks = "—"
    if watch:
        blocks = f"{watch['checks']:,} compared, {len(watch['wrong'])} wrong, {watch['left']} left"
    return (
        f"| {row['name']} | {row['same']:,} of {row['of']:,} | {blocks} "
        f"| {watch.get('peak', '—')} | {watch.get('preemptions', '—')} |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=1500)
    parser.add_argument("--others", type=int, default=300)
    parser.add_argument("--only", nargs="+", choices=[*SETTINGS, "ratio 0"])
    parser.add_argument("--json", type=Path)
    for hidden in ("--part", "--name", "--out"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.part:
        setting = SETTINGS.get(given.name, Setting(None))
        run = {
            "vllm": lambda: in_vllm(setting, given.count),
            "transformers": lambda: in_transformers(setting, given.count),
            "ours": lambda: logprobs(True, given.count),
            "theirs": lambda: logprobs(False, given.count),
        }[given.part]
        Path(given.out).write_text(json.dumps(run()))
        return 0
    print(
        "| setting | equal answers | blocks of requests and groups | most at once | preemptions |"
    )
    print("|---|---|---|---|---|", flush=True)
    rows = []
    for name in given.only or [*SETTINGS, "ratio 0"]:
        first = name in SETTINGS and SETTINGS[name].first
        rows.append(compared(name, given.questions if first else given.others))
        print(report(rows[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))
    return 0 if all(row["good"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
