"""The paper's efficiency columns beside ours: FLOPs and KV cache, vanilla and compressed.

    python benchmarks/paper_efficiency.py [--json FILE] [--write docs/performance.md]

One set of assumptions serves all rows (`ASSUMED`). Each row is counted, and run once on the meta device
by the real class with a real session, which must agree to the last digit. Then the published figures
are solved for what they imply: how many prompt tokens, and which retention. Needs no weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lightkv.checkpoints.published import DESCRIPTIONS, Description
from lightkv.cli.plan.trace import compare, meta_model
from lightkv.core.cost.counting import Savings, count_savings, prompt_layout
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.pipeline.pipeline import Pipeline

ROOT = Path(__file__).resolve().parent.parent
MARK = "<!-- PAPER -->"
TERA, GIB = 1e12, 2**30


@dataclass(frozen=True)
class Assumed:
    """What the paper does not say, once for all rows.

    Attributes:
        text: text tokens of the prompt.
        new: generated tokens; the prefill gives the first.
        tower: the vision encoder and its projector count among the FLOPs.
        logits: the prefill makes logits of every token that reaches its end, as transformers did at
            the time, and not of the last one alone.
        unit: bytes of the paper's "GB".
        whole: its KV cache holds text and generated tokens too.
        later: stages act so many layers after the published Λ; the release acts one later.
    """

    text: int = 50
    new: int = 100
    tower: bool = True
    logits: bool = True
    unit: float = GIB
    whole: bool = True
    later: int = 0


ASSUMED = Assumed()
VARIANTS = {
    "as above": ASSUMED,
    "40 text tokens": replace(ASSUMED, text=40),
    "60 text tokens": replace(ASSUMED, text=60),
    "75 text tokens": replace(ASSUMED, text=75),
    "logits of the last token only": replace(ASSUMED, logits=False),
    "no vision tower": replace(ASSUMED, tower=False),
    "no vision tower, one row of logits, 75 text tokens (`lightkv plan`)": replace(
        ASSUMED, tower=False, logits=False, text=75
    ),
    "GB of 10⁹ bytes": replace(ASSUMED, unit=1e9),
    "KV of vision tokens only, GB of 10⁹ bytes": replace(ASSUMED, unit=1e9, whole=False),
    "stages one layer later, as the release acts": replace(ASSUMED, later=1),
    "prefill only": replace(ASSUMED, new=1),
}


@dataclass(frozen=True)
class Row:
    """A model of the paper's table: figures (vanilla, compressed) in TFLOPs and "GB".

    `images` are the pictures that the vision tower encodes. `layers` and `windows` are assumed where
    none are published.
    """

    model: str
    flops: tuple[float, float]
    kv: tuple[float, float]
    images: int
    layers: tuple[int, ...] = ()
    windows: tuple[int, ...] = ()

    @property
    def described(self) -> Description:
        return DESCRIPTIONS[self.model]

    @property
    def stages(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        point = self.described.published
        return (self.layers, self.windows) if point is None else (point.layers, point.windows)

    def pipeline(self, later: int = 0) -> Pipeline:
        schedule = [
            {"after_layer": layer + later, "windows": side, "ratio": 0.5}
            for layer, side in zip(*self.stages, strict=True)
        ]
        return Pipeline.build("lightkv", self.described.shape.num_layers, schedule=schedule)

    def savings(self, assumed: Assumed) -> Savings:
        layout = prompt_layout(self.described.views, assumed.text)
        pipeline = self.pipeline(assumed.later)
        return count_savings(pipeline, self.described.shape, layout, assumed.new)


PAPER = (
    Row("llava-v1.5-13b", (19.4, 12.6), (0.55, 0.37), 1),
    Row("llava-v1.5-7b", (10.2, 6.6), (0.35, 0.23), 1),
    Row("llava-next-13b", (65.0, 37.3), (1.75, 1.05), 5),
    Row("llava-next-7b", (34.8, 22.3), (1.12, 0.67), 5),
    # No Λ is known of InternVL2: that of the other models of 32 layers is assumed.
    Row("internvl2-8b", (35.7, 22.9), (0.24, 0.14), 7, (12, 18, 24), (4, 2, 1)),
)


# -- what is counted ------------------------------------------------------------------------------


def tower_flops(described: Description, images: int) -> int:
    """FLOPs of vision encoder and projector for so many pictures, measured on the meta device."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    # LLaVA-NeXT has LLaVA's tower and projector; its class also wants the sizes of the pictures.
    family = "llava" if described.family == "llava_next" else described.family
    _, model = meta_model(replace(described, family=family))
    size = model.config.vision_config.image_size
    side = size if isinstance(size, int) else size[0]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.get_image_features(torch.empty(images, 3, side, side, device="meta"))
    return int(counter.get_total_flops())


def figures(row: Row, assumed: Assumed, tower: int) -> dict[str, tuple[float, float]]:
    """FLOPs (T) and KV ("GB"), each vanilla and compressed."""
    found = row.savings(assumed)
    sides = found.vanilla, found.compressed
    extra = tower if assumed.tower else 0
    # `Cost.flops` counts one row of logits.
    rows = [assumed.text + s.vision_tokens[-1] - 1 if assumed.logits else 0 for s in sides]
    head = row.described.shape.head_flops
    flops = tuple((s.flops + extra + head(n)) / TERA for s, n in zip(sides, rows, strict=True))
    kv = tuple((s.kv_bytes if assumed.whole else s.vision_kv_bytes) / assumed.unit for s in sides)
    return {"flops": (flops[0], flops[1]), "kv": (kv[0], kv[1])}


def errors(row: Row, ours: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Relative errors of our figures."""
    found = {}
    for name, mine in ours.items():
        paper = getattr(row, name)
        found[name] = (mine[0] / paper[0] - 1, mine[1] / paper[1] - 1)
    return found


# -- what the published figures imply --------------------------------------------------------------


def solve(function: Callable[[float], float], target: float, high: float) -> float:
    """Where an increasing function of [0, high] reaches the target."""
    low = 0.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < target else (low, middle)
    return (low + high) / 2


def layer_flops(shape: DecoderShape, tokens: float) -> float:
    return 2 * shape.layer_parameters * tokens + 4 * shape.num_heads * shape.head_dim * tokens**2


def model_flops(shape: DecoderShape, lengths: list[float], assumed: Assumed) -> float:
    """TFLOPs of a prefill over layers of so many tokens and of the decode steps, any real numbers."""
    total = sum(layer_flops(shape, n) for n in lengths)
    total += shape.head_flops(1) * (lengths[-1] if assumed.logits else 1)
    per_key = 4 * shape.num_heads * shape.head_dim
    for step in range(1, assumed.new):
        total += sum(2 * shape.layer_parameters + per_key * (n + step) for n in lengths)
        total += shape.head_flops(1)
    return total / TERA


def span(solver: Callable[[float], float], figure: float, digit: float) -> tuple[float, float]:
    """The solution, and how far it moves within the rounding of the published figure."""
    middle = solver(figure)
    return middle, max(
        abs(solver(figure + digit / 2) - middle), abs(middle - solver(figure - digit / 2))
    )


def implied(row: Row, assumed: Assumed, tower: int) -> dict[str, tuple[float, float]]:
    """Prompt tokens of the vanilla figures and retention of the compressed ones, each ± rounding."""
    shape, layers = row.described.shape, row.described.shape.num_layers
    extra = tower / TERA if assumed.tower else 0.0
    counted = row.savings(assumed)
    shares = [n / counted.vanilla.vision_tokens[0] for n in counted.compressed.vision_tokens]
    vision = counted.vanilla.vision_tokens[0]

    def flops(lengths: list[float]) -> float:
        return model_flops(shape, lengths, assumed) + extra

    def cache(lengths: list[float]) -> float:
        entries = sum(lengths) + layers * (assumed.new - 1)
        return entries * shape.kv_bytes_per_token / assumed.unit

    def alike(tokens: float) -> list[float]:
        return [tokens] * layers

    def scaled(scale: float) -> list[float]:
        # The schedule keeps its form; each later layer keeps more or less by one common power.
        return [assumed.text + vision * share ** (1 / scale - 1) for share in shares]

    def retention(scale: float) -> float:
        return sum(share ** (1 / scale - 1) for share in shares) / layers

    found = {}
    for name, cost, digit in (("flops", flops, 0.1), ("kv", cache, 0.01)):
        paper = getattr(row, name)
        found[f"tokens by {name}"] = span(
            lambda t, cost=cost: solve(lambda n: cost(alike(n)), t, 20000), paper[0], digit
        )
        found[f"retention by {name}"] = span(
            lambda t, cost=cost: retention(solve(lambda s: cost(scaled(s + 1e-9)), t, 1 - 1e-9)),
            paper[1],
            digit,
        )
    return found


# -- tables ---------------------------------------------------------------------------------------


def measure(row: Row) -> dict[str, Any]:
    """Everything about one row, as plain data."""
    tower = tower_flops(row.described, row.images)
    ours = figures(row, ASSUMED, tower)
    layout = prompt_layout(row.described.views, ASSUMED.text)
    run = compare(row.described, row.pipeline(), layout)
    counted = row.savings(ASSUMED)
    return {
        "model": row.model,
        "vision_tokens": counted.vanilla.vision_tokens[0],
        "layers": row.stages[0],
        "windows": row.stages[1],
        "schedule": row.described.published.source if row.described.published else "assumed",
        "retention": counted.retention,
        "tower_tflops": tower / TERA,
        "counted_equals_run": run.equal,
        "paper": {"flops": row.flops, "kv": row.kv},
        "ours": ours,
        "errors": errors(row, ours),
        "implied": implied(row, ASSUMED, tower),
        "variants": {name: errors(row, figures(row, v, tower)) for name, v in VARIANTS.items()},
    }


def line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def figure_table(rows: list[dict[str, Any]], name: str, unit: str, digits: int) -> list[str]:
    """Paper and ours, vanilla and compressed, with errors."""
    lines = [
        line(
            f"{unit}, vision tokens", "vanilla: paper", "ours", "error",
            "compressed: paper", "ours", "error", "ratio: paper", "ours",
        ),
        line("---", *["---:"] * 8),
    ]  # fmt: skip
    for row in rows:
        paper, ours, error = (row[key][name] for key in ("paper", "ours", "errors"))
        cells: list[object] = [f"{row['model']}, {row['vision_tokens']:,}"]
        for side in (0, 1):
            cells += [paper[side], f"{ours[side]:.{digits}f}", f"{error[side]:+.1%}"]
        cells += [f"{paper[1] / paper[0]:.3f}", f"{ours[1] / ours[0]:.3f}"]
        lines.append(line(*cells))
    return lines


def implied_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        line(
            "implied by the paper's", "prompt tokens: assumed", "FLOPs", "KV",
            "retention: ours", "FLOPs", "KV",
        ),
        line("---", *["---:"] * 6),
    ]  # fmt: skip
    for row in rows:
        found = row["implied"]
        cells: list[object] = [row["model"], f"{row['vision_tokens'] + ASSUMED.text:,}"]
        cells += [
            "{:,.0f} ± {:,.0f}".format(*found[f"tokens by {name}"]) for name in ("flops", "kv")
        ]
        cells.append(f"{row['retention']:.3f}")
        cells += [
            "{:.3f} ± {:.3f}".format(*found[f"retention by {name}"]) for name in ("flops", "kv")
        ]
        lines.append(line(*cells))
    return lines


def variant_table(rows: list[dict[str, Any]]) -> list[str]:
    """Median and largest error of all rows, vanilla and compressed, under other assumptions."""
    lines = [
        line("assumptions", "FLOPs: median error", "largest", "KV: median error", "largest"),
        line("---", *["---:"] * 4),
    ]
    for variant in VARIANTS:
        cells: list[object] = [variant]
        for name in ("flops", "kv"):
            found = [abs(e) for row in rows for e in row["variants"][variant][name]]
            cells += [f"{statistics.median(found):.1%}", f"{max(found):.1%}"]
        lines.append(line(*cells))
    return lines


def tables(rows: list[dict[str, Any]]) -> str:
    parts = [
        figure_table(rows, "flops", "TFLOPs", 2),
        figure_table(rows, "kv", "KV cache (GiB)", 3),
        implied_table(rows),
        variant_table(rows),
    ]
    return "\n\n".join("\n".join(part) for part in parts)


def write(text: str, page: Path) -> None:
    """Put the tables between the marks of a page."""
    before, _, after = page.read_text(encoding="utf-8").split(MARK)
    page.write_text(f"{before}{MARK}\n\n{text}\n\n{MARK}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--json", type=Path, default=ROOT / "benchmarks" / "results" / "paper_efficiency.json"
    )
    parser.add_argument("--write", type=Path, help="a page with the marks")
    arguments = parser.parse_args()
    rows = [measure(row) for row in PAPER]
    assert all(row["counted_equals_run"] for row in rows), "the count differs from the run"
    text = tables(rows)
    print(text)
    data = {"assumed": asdict(ASSUMED), "rows": rows}
    arguments.json.write_text(
        json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    if arguments.write:
        write(text, arguments.write)


if __name__ == "__main__":
    main()
