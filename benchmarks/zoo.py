"""Every strategy on the digit scenes, question by question, to be stopped and gone on with at will.

    python benchmarks/zoo.py --out zoo.json [--scenes 1000] [--retention 0.55 0.35 0.2]
        [--strategies lightkv,fastv] [--variants variants.yaml] [--baseline lightkv] [--table]
        [--brief]

Each cell (strategy × retention) is one entry of the JSON file, with the schedule that ran, the
achieved retention and the score of every question; cells that are there already are not run again.
`--variants` adds pipelines from a YAML file, name → pipeline. `--table` only prints what is there:
accuracy with its 95 % Wilson interval, and the difference to the baseline with a 95 % interval by
paired bootstrap over scenes (the mean over the kinds of question, 10,000 resamples, seed 0); `--brief`
one line for each strategy with all retentions.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from lightkv.core.errors import LightKVError
from lightkv.core.pipeline.pipeline import PipelineSpec, resolve_spec
from lightkv.core.plugins import registry
from lightkv.demo import compare
from lightkv.demo.asking import answer, batches
from lightkv.demo.model import load
from lightkv.demo.scenes import KINDS, held_out_scenes, score

SEED = 2026
RESAMPLES = 10_000


def run_cell(
    spec: PipelineSpec | None, retention: float, scenes: list[Any], model: Any, processor: Any
) -> dict[str, Any]:
    """Scores of one strategy (None: uncompressed) by kind, in the order of the scenes."""
    runner = compare._vanilla(model) if spec is None else compare._runner(model, spec, retention)
    if runner.session is None:
        return {"error": runner.row.error}
    scores: dict[str, list[float]] = {}
    kept: list[float] = []
    with torch.no_grad():
        for kind in KINDS:
            for pictures, questions in batches(scenes, kind, compare.BATCH_SIZE):
                runner.session.attach()
                try:
                    texts = answer(model, processor, pictures, questions)
                finally:
                    runner.session.detach()
                kept += [sample.retention for sample in runner.session.last.samples]
                found = [score(q, text) for q, text in zip(questions, texts, strict=True)]
                scores.setdefault(kind, []).extend(found)
    return {
        "achieved": sum(kept) / len(kept),
        "schedule": runner.row.schedule,
        "scores": {kind: [round(value, 4) for value in found] for kind, found in scores.items()},
    }


def owners(scenes: list[Any]) -> dict[str, np.ndarray[Any, Any]]:
    """For each kind the scene of each question, in the order in which questions are asked."""
    out = {}
    for kind in KINDS:
        pairs = [(i, q) for i, (_, asked) in enumerate(scenes) for q in asked if q.kind == kind]
        pairs.sort(key=lambda pair: len(pair[1].text.split()))  # as `evaluate.batches`
        out[kind] = np.array([scene for scene, _ in pairs])
    return out


def by_scene(
    scores: dict[str, list[float]], owner: dict[str, np.ndarray[Any, Any]], scenes: int
) -> np.ndarray[Any, Any]:
    """`[kinds, scenes]` score of each question, NaN where a scene has none of the kind."""
    table = np.full((len(KINDS), scenes), np.nan)
    for row, kind in enumerate(KINDS):
        table[row, owner[kind]] = scores[kind]
    return table


def interval(table: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> tuple[float, float]:
    """95 % interval of the difference of means over kinds, by bootstrap over scenes."""
    generator, scenes = np.random.default_rng(0), table.shape[1]
    # Scene i stands in a resample `weight[i]` times.
    weight = generator.multinomial(scenes, np.full(scenes, 1 / scenes), size=RESAMPLES)
    defined = ~np.isnan(table)
    gap = np.where(defined, np.nan_to_num(table) - np.nan_to_num(other), 0.0)
    means = (weight @ gap.T) / (weight @ defined.T.astype(float))
    low, high = np.percentile(means.mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def print_table(
    cells: dict[str, Any], baseline: str, owner: dict[str, np.ndarray[Any, Any]], scenes: int
) -> None:
    """Markdown, one block for each retention."""
    for retention in sorted({key.split("@")[1] for key in cells if "@" in key}, reverse=True):
        rows = {k.split("@")[0]: v for k, v in cells.items() if k.endswith(f"@{retention}")}
        rows = {"vanilla": cells["vanilla"], **rows}
        print(f"\n### Retention {retention}\n")
        print("| strategy | mean | " + " | ".join(KINDS) + f" | achieved | minus {baseline} |")
        print("|---|---|" + "---|" * (len(KINDS) + 2))
        base = rows.get(baseline)
        means = {
            n: np.mean([np.mean(s) for s in c["scores"].values()])
            for n, c in rows.items()
            if "scores" in c
        }
        for name, cell in sorted(rows.items(), key=lambda item: -means.get(item[0], -1.0)):
            if "error" in cell:
                print(f"| {name} | did not run: {cell['error']} |" + " |" * (len(KINDS) + 2))
                continue
            parts = []
            for kind in KINDS:
                found = cell["scores"][kind]
                low, high = compare.wilson(sum(found), len(found))
                parts.append(f"{100 * np.mean(found):.1f} [{100 * low:.1f}, {100 * high:.1f}]")
            gap = ""
            if base and "scores" in base and name != baseline:
                one, other = (by_scene(c["scores"], owner, scenes) for c in (cell, base))
                low, high = (100 * bound for bound in interval(one, other))
                gap = f"{100 * (means[name] - means[baseline]):+.1f} [{low:+.1f}, {high:+.1f}]"
            print(
                f"| {name} | {100 * means[name]:.1f} | "
                + " | ".join(parts)
                + f" | {cell['achieved']:.3f} | {gap} |"
            )


def print_brief(
    cells: dict[str, Any], baseline: str, owner: dict[str, np.ndarray[Any, Any]], scenes: int
) -> None:
    """Markdown, means and differences to the baseline of all retentions side by side."""
    retentions = sorted({key.split("@")[1] for key in cells if "@" in key}, reverse=True)
    names = list(dict.fromkeys(key.split("@")[0] for key in cells if "@" in key))
    print("| | " + " | ".join(f"{r} | minus {baseline}" for r in retentions) + " |")
    print("|---|" + "---|---|" * len(retentions))
    for name in names:
        parts = []
        for retention in retentions:
            cell, base = (cells.get(f"{n}@{retention}", {}) for n in (name, baseline))
            if "scores" not in cell:
                parts += ["did not run" if "error" in cell else "", ""]
                continue
            one = by_scene(cell["scores"], owner, scenes)
            low, high = interval(one, np.zeros_like(one))
            mean = np.nanmean(one, axis=1).mean()
            parts.append(f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
            if name == baseline or "scores" not in base:  # it may not reach this retention
                parts.append("")
                continue
            other = by_scene(base["scores"], owner, scenes)
            low, high = interval(one, other)
            gap = np.nanmean(one - other, axis=1).mean()
            parts.append(f"{100 * gap:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
        print(f"| {name} | " + " | ".join(parts) + " |")


def save(path: Path, data: dict[str, Any]) -> None:
    """Write beside and rename, so that a stop in the middle loses nothing."""
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(data, separators=(",", ":")) + "\n")
    beside.replace(path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--retention", type=float, nargs="+", default=[0.55, 0.35, 0.2])
    parser.add_argument("--strategies", default="", help="names, all presets by default")
    parser.add_argument("--variants", type=Path)
    parser.add_argument("--baseline", default="lightkv")
    parser.add_argument("--table", action="store_true", help="print only, run nothing")
    parser.add_argument("--brief", action="store_true", help="one line for each strategy")
    options = parser.parse_args()
    scenes = held_out_scenes(options.scenes, SEED)
    data = json.loads(options.out.read_text()) if options.out.exists() else {"cells": {}}
    if data.setdefault("scenes", options.scenes) != options.scenes:
        parser.error(f"{options.out} has {data['scenes']} scenes")
    cells = data["cells"]
    if not options.table:
        named = {n: resolve_spec(n) for n in filter(None, options.strategies.split(","))}
        if options.variants:
            found = yaml.safe_load(options.variants.read_text())
            named |= {name: PipelineSpec.parse({"name": name, **s}) for name, s in found.items()}
        if not named:
            named = {name: resolve_spec(name) for name in sorted(registry().presets)}
        model, processor = load()
        if "vanilla" not in cells:
            cells["vanilla"] = run_cell(None, 1.0, scenes, model, processor)
            save(options.out, data)
        for retention in options.retention:
            for name, spec in named.items():
                key = f"{name}@{retention}"
                if key in cells:
                    continue
                try:
                    cells[key] = run_cell(spec, retention, scenes, model, processor)
                except LightKVError as error:
                    cells[key] = {"error": str(error)}
                save(options.out, data)
                share = cells[key].get("scores", {})
                mean = np.mean([np.mean(s) for s in share.values()]) if share else np.nan
                print(f"{key}: {100 * mean:.1f} {cells[key].get('error', '')}", flush=True)
    show = print_brief if options.brief else print_table
    show(cells, options.baseline, owners(scenes), options.scenes)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
