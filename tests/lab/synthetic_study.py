"""A made-up grid with known structure: four axes × three retentions, six kinds, sixty pictures."""

import itertools

import numpy as np

from lightkv.lab.grids.store import Store
from lightkv.lab.outcomes import Cell, Outcome

AXES = {
    "windows": {"on": 0.0, "off": -0.25},
    "matcher": {"feature-divergence": 0.0, "key-similarity": -0.1, "random": -1.2},
    "guidance": {"prompt": 0.0, "uniform": -0.35},
    "mean": {"weighted": 0.0, "plain": 0.05},
}
"""Axis → label → what it costs at retention 0, in log-odds."""
RETENTIONS = (0.55, 0.35, 0.2)
KINDS = {"color to digit": 0.8, "count": 1.6, "digit to color": 1.0, "exists": 0.5, "list": 1.3}
KINDS |= {"spatial": 2.6}
"""Kind → how much harder compression makes it."""
LAYERS, TOKENS = 8, 144
UNFINISHED = (
    ("failed", "NumericError: the aggregator gave NaN in stage 2"),
    ("skipped", "random matching has no windows"),
    ("pending", ""),
)
"""Status and reason of the last cells."""


def study(clusters=60, retentions=RETENTIONS, axes=AXES, seed=0, names=str, unfinished=UNFINISHED):
    """Cells, their outcomes and the meta data of a grid.

    Args:
        unfinished: status and reason of the last cells.
        names: what to make of kinds and questions, to try odd texts.
    """
    generator = np.random.default_rng(seed)
    samples = [(f"s{c:03}-{k}", f"picture {c:03}", k) for c in range(clusters) for k in range(6)]
    ability = np.repeat(generator.normal(2.6, 0.7, clusters), 6)
    noise = generator.logistic(size=len(samples))
    cells, outcomes = [], {}

    def add(factors, pipeline, cost, retention):
        labels = [factors["cell"]] if "cell" in factors else [f"{a}={factors[a]}" for a in axes]
        labels += [f"retention={factors['retention']}"] if "retention" in factors else []
        number = len(cells)
        spec = {"model": "demo", "dtype": "auto", "task": {"name": "scenes", "scenes": clusters}}
        spec |= {"data": "c0ffee", "seed": 0, "retention": retention, "pipeline": pipeline}
        share = 1.0 if retention is None else float(retention + generator.normal(0, 0.001))
        cell = Cell(
            id=f"{number:016x}",
            position=number,
            name=" ".join(labels),
            factors={**factors, "model": "demo", "task": "scenes", "seed": "0"},
            spec=spec,
            status="done",
            versions={"lightkv": "0.1.0", "torch": "2.13.0"},
            seconds=20.0 + number,
            retention=share,
            flops=0.35 + 0.65 * share + 0.01 * (factors.get("windows") == "off"),
            kv_bytes=0.05 + 0.95 * share,
            tokens=tokens(retention or 1.0, factors.get("windows")),
        )
        hard = np.array(list(KINDS.values()))[[k for *_, k in samples]]
        own = generator.logistic(size=len(samples)) * 0.35
        right = ability + noise + own - cost * hard > 0
        cells.append(cell)
        outcomes[cell.id] = [
            Outcome(s, c, names(list(KINDS)[k]), names("what ?"), "3", float(r), share)
            for (s, c, k), r in zip(samples, right, strict=True)
        ]

    add({"cell": "vanilla"}, {}, 0.0, None)
    for retention in retentions:
        for labels in itertools.product(*axes.values()):
            factors = dict(zip(axes, labels, strict=True))
            loss = 0.25 - sum(axes[a][x] for a, x in factors.items())
            pipeline = {"name": "mine", "aggregator": {"name": factors.get("mean", "weighted")}}
            pipeline["schedule"] = [{"after_layer": 2, "ratio": 0.5, "windows": 4}]
            cost = 2.2 * loss * (1 - retention) ** 2.2
            add({**factors, "retention": str(retention)}, pipeline, cost, retention)
    for number, (status, reason) in enumerate(unfinished, len(cells) - len(unfinished)):
        cell = cells[number]
        del outcomes[cell.id]
        cells[number] = Cell(
            cell.id, number, cell.name, cell.factors, cell.spec, status, names(reason)
        )
    vanilla = cells[0].name
    meta = {
        "schema": 1,
        "grid": {"name": "parts of lightkv", "axes": {a: list(x) for a, x in axes.items()}},
        "created": "2026-11-21T11:50:00+00:00",
        "baseline": vanilla,
        "baselines": {cell.name: vanilla for cell in cells[1:]},
        "versions": {"lightkv": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
    }
    return cells, outcomes, meta


def tokens(share, windows):
    """Vision tokens of each layer that come to the share; windows leave other roundings."""
    first = max(1, round(LAYERS * share * 0.6))
    left = max(0.05, (share * LAYERS - first) / max(1, LAYERS - first))
    kept = [1.0 if layer < first else left for layer in range(LAYERS)]
    return tuple(round(TOKENS * each + (windows == "off") * (each < 1)) for each in kept)


def write(path, *made):
    """The results file of a study."""
    cells, outcomes, meta = made or study()
    with Store.create(path, meta["grid"], **{k: meta[k] for k in ("baseline", "baselines")}) as s:
        left_out = {"status": "skipped"}
        given = [
            (c, left_out | {"reason": c.reason} if c.status == "skipped" else {}) for c in cells
        ]
        s.add_cells(
            [Cell(c.id, c.position, c.name, c.factors, c.spec, **more) for c, more in given]
        )
        s.update_meta(versions=meta["versions"])
        for cell in cells:
            if cell.status == "done":
                s.finish(cell, outcomes[cell.id])
            elif cell.status == "failed":
                s.fail(cell, cell.reason)
    return path
