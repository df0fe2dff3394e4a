"""`lightkv tune`: the smallest retention that loses less than allowed, on the user's own data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from lightkv.cli.errors import one_line
from lightkv.cli.options import Device, Dtype, Json, Model
from lightkv.cli.output import console, notes, print_json, progress_bar, table

if TYPE_CHECKING:
    from lightkv.lab.search.evaluator import Progress
    from lightkv.lab.search.result import Tuned

NOT_SHOWN = 1
"""Exit code where no retention passes: no mistake of the user, but no result either."""


def tune(
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            help="scenes:N (or pictures, pairs, clips), a folder, a JSONL file, or a task as {name: …}."
        ),
    ],
    max_drop: Annotated[str, typer.Option(help="Of the mean score, such as 1% or 0.01.")] = "1%",
    confidence: Annotated[str, typer.Option(help="Such as 95% or 0.95.")] = "95%",
    strategy: Annotated[
        str, typer.Option(help="Presets or pipeline files with commas between: the best of them.")
    ] = "lightkv",
    schedule: Annotated[
        list[str] | None,
        typer.Option(
            help="To try besides the strategy's own: a change of its recipe, such as 'ratio: 0.4'; "
            "repeatable. own: no other [gentler stages, or other depths]."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="files, agreement or perplexity [by whether the data have answers]."),
    ] = None,
    measure: Annotated[
        str | None, typer.Option(help="exact, vqa or overlap, for files [exact].")
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="Asked about pictures that have none of their own.")
    ] = None,
    ends: Annotated[
        str, typer.Option("--range", metavar="FROM:TO", help="Retentions to choose from.")
    ] = "0.2:0.95",
    step: Annotated[float, typer.Option(help="Between them.")] = 0.05,
    budget: Annotated[
        int | None, typer.Option(help="Retentions to try at most, per strategy [what it needs].")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="To use at most, whole pictures.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    out: Annotated[Path, typer.Option(help="The pipeline file to write.")] = Path("tuned.yaml"),
    dtype: Dtype = "auto",
    device: Device = None,
    json: Json = False,
) -> None:
    """Find the smallest retention with a small enough loss; write its pipeline with the evidence."""
    from lightkv.checkpoints.load import quiet_libraries
    from lightkv.lab.errors import NotShownError
    from lightkv.lab.search.result import check_out, write
    from lightkv.lab.search.tune import tune as find

    quiet_libraries()
    path = check_out(out)
    try:
        with _bar() as progress:
            tuned = find(
                model,
                data,
                task=task,
                measure=measure,
                question=question,
                strategy=strategy,
                schedules=schedule or None,
                max_drop=max_drop,
                confidence=confidence,
                range=ends,
                step=step,
                budget=budget,
                samples=samples,
                seed=seed,
                dtype=dtype,
                device=device,
                progress=progress,
            )
    except NotShownError as error:
        typer.echo(one_line(str(error)), err=True)
        raise typer.Exit(NOT_SHOWN) from None
    except KeyboardInterrupt:
        notes().print("Stopped; nothing was written.")
        raise typer.Abort from None
    # Told first: a disk that has filled up meanwhile must not cost the result.
    if json:
        print_json({**tuned.to_dict(), "out": str(out)})
    else:
        _show(tuned)
    write(tuned, path)
    if not json:
        console().print(f"Written: {out}")


@contextmanager
def _bar() -> Iterator[Any]:
    """What is being tried; a line for each evaluation without a terminal."""
    out = notes()
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with progress_bar(*columns) as bar:
        spinner = bar.add_task("loading")

        def advance(step: Progress) -> None:
            what = "uncompressed"
            if step.retention is not None:
                what = f"{step.strategy} at {step.retention:g}"
            text = f"{what}, {step.samples} samples"
            bar.update(spinner, description=text)
            if not out.is_terminal:
                out.print(text)

        yield advance


# -- printing -------------------------------------------------------------------------------------


def _show(tuned: Tuned) -> None:
    from lightkv.lab.search.tuner import STEERING

    out = console()
    heads = ("strategy", "retention", "achieved", "samples", "difference", "bounds")
    found = table(*heads, compact=True)
    found.add_column("")
    for trial in tuned.trials:
        seen = trial.margin
        bounds = f"[{tuned.points(seen.low)}, {tuned.points(seen.high)}]"
        found.add_row(
            trial.name,
            f"{trial.retention:g}",
            f"{trial.achieved:.3f}",
            str(seen.samples),
            tuned.points(seen.difference),
            bounds,
            trial.verdict,
        )
    out.print(found)
    gap = tuned.difference
    out.print(
        f"{tuned.name} at retention {tuned.retention:g}: {tuned.points(gap.difference)} on "
        f"{gap.n} samples, above {tuned.points(tuned.margin.low)} with {tuned.confidence:.4g} "
        f"confidence ({tuned.points(-tuned.max_drop)} allowed).",
    )
    out.print(
        f"{tuned.pipeline.name} is a tuned pipeline: its stages were found on these data and are not "
        f"those of the paper behind {tuned.strategy}."
    )
    for remark in tuned.remarks:
        out.print(f"Remark: {remark}.")
    out.print(
        f"{tuned.evaluations} retentions and {tuned.answered} answers, where a sweep of the range "
        f"takes {tuned.sweep}. Differences to the uncompressed model are "
        + ("in percent points" if tuned.accuracy else "of mean log-probabilities")
        + f"; bounds are one-sided: on all samples each at {tuned.decision_confidence:.4f}, so that all "
        "decisions together have the confidence asked for; on fewer, where they only steer, at "
        f"{1.0 - STEERING:g}.",
        style="dim",
    )
