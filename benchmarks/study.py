"""Runs the study of both models for some time: grids and searches, the most important first.

    python benchmarks/study.py --out runs/study --minutes 60 --workers 2
    python benchmarks/study.py --out runs/study --list [--json]
    python benchmarks/study.py --out runs/study --only presets_scenes --minutes 60

The results files are in `--out`. The same command goes on where the last one stopped: a cell that was
running begins anew. After each grid or search, and at the end, what is kept of its results is written
into `--kept` as text, from which `python benchmarks/evidence.py` makes docs/evidence.md. What cannot run
(a model that is not built in, a search without optuna) is named and passed over.

To plan a grid's cells takes minutes on one core, and nothing is kept of it before it is done. Searches
follow one another and take no workers; `--test` asks their held-out data when all trials are done, once,
after which a search takes no more trials. A grid whose file or presets have changed since its results
were begun is refused: give --out another folder, or add to them with `lightkv ablate --extend`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kept import keep

from lightkv.cli.options import read_changes
from lightkv.core.errors import LightKVError
from lightkv.lab import Grid, SearchStudy, Store, ablate, build_task, search_designs
from lightkv.lab.grids.expand import expand

HERE = Path(__file__).parent
KEPT = HERE / "results" / "evidence"
ORDER = (
    "grids/presets_scenes",
    "grids/presets_pictures",
    "grids/presets_clips",
    "grids/parts_scenes",
    "grids/parts_video",
    "searches/default_scenes",
    "searches/default_pictures",
    "searches/default_clips",
    "grids/presets_pairs",
    "grids/guidance_time",
    "grids/guidance_time_dropping",
    "grids/windows_time",
    "grids/tokens_pictures",
    "grids/stages_scenes",
    "grids/stages_video",
    "grids/positions_scenes",
    "grids/positions_video",
    "grids/tokens_clips",
    "grids/schedules",
    "grids/ratios_scenes",
    "grids/ratios_video",
)
"""Folder and name of each grid and search, the most important first."""
SECONDS = {"demo": 0.24e-3, "demo-video": 0.31e-3}
"""Model → seconds of one core for each vision token of a question, measured: 35 ms for a scene of 144
tokens, 62 ms for a picture of 202, 142 ms for a clip of 447."""
SHARE = 0.5
"""Of its questions that a trial is asked on average: some cannot be built, many end early."""
TESTED = 10
"""Designs that a search's test asks beside those made by hand, about."""


class TimeIsUp(KeyboardInterrupt):
    """Ends a run as Ctrl-C does: what is finished stays."""


@dataclass(frozen=True)
class Work:
    """What a grid or search takes on one core, as far as that is known beforehand.

    Attributes:
        name: of its files.
        kind: `grids` or `searches`.
        cells: without those that the grid leaves out; some cannot be built, which costs nothing.
        questions: of all cells.
        hours: of one core, of a search without its test.
        test_hours: of a search's test.
        done: cells of its results file that have ended; None where there is no file.
    """

    name: str
    kind: str
    cells: int
    questions: int
    hours: float
    test_hours: float
    done: int | None


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results files")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kept", type=Path, default=KEPT, help="folder of the texts")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these, in this order")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="as of ablate")
    parser.add_argument("--test", action="store_true", help="ask held-out data after all trials")
    parser.add_argument("--list", action="store_true", help="run nothing; say what there is to do")
    parser.add_argument("--json", action="store_true", help="with --list")
    options = parser.parse_args(arguments)
    chosen = pick(options.only)
    if options.list:
        show([work_of(each, options.out) for each in chosen], options.json)
        return
    if options.set and options.kept == KEPT:
        parser.error("--set makes another study; give --kept another folder for its texts")
    options.out.mkdir(parents=True, exist_ok=True)
    changes = read_changes(options.set, "task.scenes=20")
    ends = time.monotonic() + 60.0 * options.minutes
    for each in chosen:
        if time.monotonic() >= ends:
            break
        try:
            run(each, options, changes, ends)
        except TimeIsUp:
            print(f"{each}: the time is up; the same command goes on", flush=True)
            break


def pick(names: list[str] | None) -> list[str]:
    """Entries of `ORDER`, all of them or those of the names."""
    known = {each.partition("/")[2]: each for each in ORDER}
    for name in names or ():
        if name not in known:
            raise SystemExit(f"the study has no {name!r}; it has {', '.join(known)}")
    return list(ORDER) if names is None else [known[name] for name in names]


def run(each: str, options: argparse.Namespace, changes: Mapping[str, Any], ends: float) -> None:
    """Run one grid or search until it is done or the time is up, and keep its results.

    Raises:
        TimeIsUp: before it was done.
    """
    kind, _, name = each.partition("/")
    path, out = HERE / f"{each}.yaml", options.out / f"{name}.sqlite"
    print(f"{each}: {time.strftime('%H:%M')}", flush=True)

    told = 0

    def tell(step: Any) -> None:
        nonlocal told
        if step.done > told:
            print(f"{name}: {step.done} of {step.total}", flush=True)
        told = step.done
        if time.monotonic() >= ends:
            raise TimeIsUp

    try:
        if kind == "grids":
            with ablate(path, out=out, changes=changes, workers=options.workers, progress=tell):
                pass
        else:
            study = SearchStudy.read(path, changes)
            search_designs(study, out=out, test=options.test, progress=tell)
    except LightKVError as error:
        print(f"{each} did not run: {error}", flush=True)
    finally:
        if out.exists():
            _keep(out, options.kept / f"{name}.json")


def _keep(out: Path, target: Path) -> None:
    try:
        done = keep(out, target)
    except LightKVError as error:
        print(f"{out.name}: nothing to keep yet: {error}", flush=True)
    else:
        print(f"wrote {target}" if done else f"{out.name}: no cells yet", flush=True)


# -- what there is to do --------------------------------------------------------------------------


def work_of(each: str, folder: Path) -> Work:
    """Cells and hours of a grid or search."""
    kind, _, name = each.partition("/")
    count = _grid if kind == "grids" else _search
    return Work(name, kind, *count(HERE / f"{each}.yaml"), _done(folder / f"{name}.sqlite"))


def _grid(path: Path) -> tuple[int, int, float, float]:
    grid = Grid.read(path)
    found = [one for one in expand(grid) if one.skipped is None]
    questions, seconds = 0, 0.0
    for label, spec in grid.tasks().items():
        here = [one for one in found if one.factors["task"] == label]
        number, tokens = _asked(spec)
        questions += number * len(here)
        seconds += sum(tokens * SECONDS[one.model] for one in here)
    return len(found), questions, seconds / 3600, 0.0


def _search(path: Path) -> tuple[int, int, float, float]:
    study = SearchStudy.read(path)
    number, tokens = _asked(study.task)
    by_hand = 1 + len(study.start) * len(study.retention)
    asked = by_hand + SHARE * study.trials
    hours = SECONDS[study.model] / 3600
    tested = (by_hand + TESTED) * _asked(study.held_out)[1]
    return by_hand + study.trials, round(asked * number), asked * tokens * hours, tested * hours


def _asked(spec: Any) -> tuple[int, int]:
    """Questions of a task, and vision tokens of their prompts."""
    samples = build_task(spec).samples()
    return len(samples), sum(sample.tokens for sample in samples)


def _done(path: Path) -> int | None:
    if not path.exists():
        return None
    with Store.open(path) as store:
        return sum(cell.status in ("done", "failed", "skipped") for cell in store.cells())


def show(work: list[Work], as_json: bool) -> None:
    """What there is to do, as a table or as JSON."""
    if as_json:
        print(json.dumps([asdict(each) for each in work], indent=1))
        return
    print("| | | cells | done | questions | hours on one core | of the test |")
    print("|---|---|---|---|---|---|---|")
    for each in work:
        done = "–" if each.done is None else str(each.done)
        row = f"| {each.kind} | {each.name} | {each.cells} | {done} | {each.questions:,} |"
        print(f"{row} {each.hours:.1f} | {each.test_hours:.1f} |")
    hours, test_hours = sum(each.hours for each in work), sum(each.test_hours for each in work)
    print(f"\n{hours:.1f} hours in all, {test_hours:.1f} more for the tests of searches")


if __name__ == "__main__":
    main()
