"""`lightkv demo`: what every strategy costs and saves on the bundled model, measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from lightkv.cli.options import Json, read_share
from lightkv.cli.output import (
    bytes_text,
    check_writable,
    console,
    counting_bar,
    flops_text,
    notes,
    print_json,
    write_json,
)
from lightkv.core.errors import check_least

if TYPE_CHECKING:
    from lightkv.demo.compare import Row

SCENES = 60
"""Scenes by default: about 340 questions for each strategy, well under 90 s on 2 cores."""
WIDE = 104
"""Columns that the table takes with one row for each strategy."""
HEADS = {
    "color_to_digit": "color→\ndigit",
    "digit_to_color": "digit→\ncolor",
    "exists": "exists",
    "count": "count",
    "spatial": "spatial",
    "list": "list\nitems",
}


def demo(
    retention: Annotated[
        Any,
        typer.Option(
            parser=read_share,
            metavar="SHARE",
            help="Mean share of vision KV over all layers, in (0, 1], as 0.55 or 55%.",
        ),
    ] = 0.55,
    samples: Annotated[
        int, typer.Option(help="Scenes, each with up to 6 questions; 1000 for full figures.")
    ] = SCENES,
    strategies: Annotated[
        str | None, typer.Option(help="Presets or pipeline files, with commas between them.")
    ] = None,
    json: Json = False,
    json_file: Annotated[str | None, typer.Argument(hidden=True)] = None,
    seed: Annotated[int, typer.Option(help="Of the scenes.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Questions answered at once.")] = 20,
) -> None:
    """Compare strategies on the bundled model: accuracy, KV cache, FLOPs, time to first token."""
    if json_file is not None:
        _check_old(json, json_file)
    check_least("--samples", samples)
    check_least("--seed", seed, 0)
    check_least("--batch-size", batch_size)
    rows, facts = _measure(retention, samples, strategies, seed, batch_size)
    data = {**facts, "rows": [row.to_dict(rows[0]) for row in rows]}
    if json and json_file in (None, "-"):
        print_json(data)
        return
    if json_file is not None:
        write_json(data, json_file)
    _show(rows, facts)


def _check_old(json: bool, target: str) -> None:
    """The option of 0.1 took a file: `--json FILE`, or `--json -`. It still does, and says what is new.

    Raises:
        ConfigError: a file that cannot be written.
        typer.BadParameter: an argument without the option, of which the command has none.
    """
    if not json:
        raise typer.BadParameter(f"got an unexpected extra argument ({target})")
    check_writable(None if target == "-" else target)
    now = "--json" if target == "-" else f"--json > {target}"
    notes().print(f"warning: --json takes no file any more; write {now}", soft_wrap=True)


def _measure(
    retention: float, samples: int, strategies: str | None, seed: int, batch_size: int
) -> tuple[list[Row], dict[str, Any]]:
    """The rows, and under what conditions they were measured."""
    import torch

    from lightkv.checkpoints.bundled import checkpoint_path
    from lightkv.checkpoints.load import quiet_libraries
    from lightkv.core.pipeline.pipeline import resolve_spec
    from lightkv.demo import compare as comparing
    from lightkv.demo.model import load
    from lightkv.demo.scenes import held_out_scenes

    names = comparing.STRATEGIES if strategies is None else _split(strategies)
    # Names first: a misspelt one should not wait for the model.
    specs = [resolve_spec(name) for name in names]
    checkpoint_path()
    quiet_libraries()
    model, processor = load()
    scenes = held_out_scenes(samples, seed)
    with counting_bar("batches") as progress:
        task = progress.add_task("", total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        rows = comparing.compare(
            specs, retention, scenes, model, processor, batch_size=batch_size, progress=advance
        )
    facts = {
        "scenes": samples,
        "questions": sum(len(questions) for _, questions in scenes),
        "seed": seed,
        "retention": retention,
        "batch_size": batch_size,
        "device": str(model.device),
        "threads": torch.get_num_threads(),
    }
    return rows, facts


def _split(text: str) -> list[str]:
    """Names between commas; `vanilla` runs anyway."""
    names = [name.strip() for name in text.split(",")]
    return [name for name in names if name and name != "vanilla"]


# -- printing -------------------------------------------------------------------------------------


def _show(rows: Sequence[Row], facts: dict[str, Any]) -> None:
    out = console()
    out.print(_table(rows, out.width))
    for row in rows:
        if row.error is not None:
            out.print(f"{row.strategy} did not run: {row.error}")
    out.print(explanation(rows, facts), style="dim")


def _table(rows: Sequence[Row], width: int) -> Table:
    """Strategies as rows; as columns where the terminal is too narrow for that."""
    vanilla = rows[0]
    kinds = [HEADS.get(kind, kind) for kind in vanilla.accuracy]
    heads = ["strategy", *kinds, "retention", "vision\nKV", "prefill\nFLOPs", "TTFT"]
    lines = [[row.strategy, *_cells(row, vanilla)] for row in rows]
    if width < WIDE:
        names = [line[0].replace("-", "-\n").replace(" ", "\n") for line in lines]
        heads = [head.replace("→\n", "→").replace("\n", " ") for head in heads]
        columns = zip(*(line[1:] for line in lines), strict=True)
        lines = [[head, *column] for head, column in zip(heads[1:], columns, strict=True)]
        heads = ["", *names]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    return table


def _cells(row: Row, vanilla: Row) -> list[str]:
    """Each figure, and below it its relation to vanilla."""
    if row.error is not None:
        return ["–"] * (len(vanilla.accuracy) + 4)
    own = row is vanilla
    cells = []
    for kind, accuracy in row.accuracy.items():
        points = 100 * (accuracy.mean - vanilla.accuracy[kind].mean)
        cells.append(f"{100 * accuracy.mean:.1f}" + ("" if own else f"\n{points:+.1f}"))
    cells.append(f"{row.retention:.3f}")
    for text, ratio in (
        (bytes_text(row.vision_kv_bytes), row.vision_kv_bytes / vanilla.vision_kv_bytes),
        (
            flops_text(row.prefill_flops).removesuffix("LOPs"),
            row.prefill_flops / vanilla.prefill_flops,
        ),
        (f"{1e3 * row.ttft:.0f} ms", row.ttft_ratio),
    ):
        cells.append(text + ("" if own else f"\n× {ratio:.2f}"))
    return cells


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def explanation(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """What the table shows, in words that follow from its figures."""
    from lightkv.demo.compare import GENTLE

    vanilla, others = rows[0], [row for row in rows[1:] if row.error is None]
    halves = [(a.high - a.low) / 2 for row in rows for a in row.accuracy.values()]
    questions, scenes, threads = (
        _count(facts[key], key.removesuffix("s")) for key in ("questions", "scenes", "threads")
    )
    parts = [
        f"Measured just now: {questions} about {scenes} that training never saw (seed "
        f"{facts['seed']}), greedy answers, on {facts['device']} with {threads}. Accuracy in % of "
        "right answers (of right items for lists), below it the difference to vanilla in points; "
        f"each is uncertain by up to ± {100 * max(halves):.0f} points (95 %). KV and FLOPs are "
        f"per question and exact; TTFT is the median over {vanilla.batches} batches of up to "
        f"{facts['batch_size']} questions, and its × is the median "
        "of the ratios to vanilla of each batch, which differs from the ratio of the medians as batches "
        "differ in length; every other × is the share of vanilla's. Schedules are set so that "
        f"the achieved retention comes as near to {facts['retention']:g} as whole tokens allow."
    ]
    if any(row.strategy == GENTLE["name"] for row in rows):
        parts.append(
            f"{GENTLE['name']} removes 0.4 of the tokens at a stage where lightkv removes half "
            '(schedule={"ratio": 0.4}).'
        )
    if others:
        best = max(others, key=lambda row: row.mean_accuracy)
        worst = min(others, key=lambda row: row.mean_accuracy)
        parts.append(
            f"Mean over the question types: vanilla {100 * vanilla.mean_accuracy:.1f}, "
            f"nearest {best.strategy} {100 * best.mean_accuracy:.1f}"
            + (
                f", last {worst.strategy} {100 * worst.mean_accuracy:.1f}."
                if worst is not best
                else "."
            )
        )
    return " ".join(parts)
