"""A search, or what is left of it: every trial is a cell of a results file.

The file holds cells and their outcomes, nothing of the sampler. What a trial is worth, and what it is
beaten by, follow from outcomes, so a search that goes on comes to the same trials as one that was never
interrupted. A trial that ended early is a cell with the outcomes of fewer samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightkv.core.errors import LightKVError, UnknownNameError
from lightkv.lab.designs.asking import Answers, Asker, Beaten
from lightkv.lab.designs.drawing import Design, Drawing, check_space, optuna_library
from lightkv.lab.designs.findings import (
    HELD_OUT_NAME,
    TESTED,
    Findings,
    findings,
    twin_of,
    worth,
)
from lightkv.lab.designs.pruning import Rule
from lightkv.lab.designs.samples import HELD_OUT, Part, check_apart, held_out, rungs_of, searched
from lightkv.lab.designs.schema import SearchStudy
from lightkv.lab.errors import SearchError, StoreError
from lightkv.lab.grids.cells import REPEAT, cell_id, computation, seeded
from lightkv.lab.grids.changes import label_text
from lightkv.lab.grids.resume import begun_with, check_unchanged
from lightkv.lab.grids.run import threads_of
from lightkv.lab.grids.schema import VANILLA
from lightkv.lab.grids.store import Store
from lightkv.lab.grids.worker import versions
from lightkv.lab.outcomes import Cell, Outcome, writable
from lightkv.lab.stats import scipy_stats
from lightkv.lab.subject import Subject


@dataclass(frozen=True)
class Progress:
    """Where a search stands.

    Attributes:
        done: cells that are done, of `total`.
        total: that this call comes to.
        cell: that is about to run; None before the first and after the last.
        beaten: trials so far that ended early.
    """

    done: int
    total: int
    cell: str | None = None
    beaten: int = 0


Report = Callable[[Progress], None]


def search_designs(
    study: SearchStudy | str | Path | Mapping[str, Any],
    *,
    out: str | Path,
    test: bool = False,
    threads: int | None = None,
    device: str | None = None,
    progress: Report | None = None,
) -> Findings:
    """Search for designs that lose little and cost little, or go on with such a search.

    First the uncompressed model answers, then the pipelines made by hand (`start`), then designs that
    the sampler draws, at each retention in turn. A drawn design answers a quarter of the pictures, half
    of them, all of them; it ends early where a rival that costs no more is shown to score higher, or
    where it is shown to lose more than `max_drop`.

    Stopped in any way, the same call goes on with the same trials; the one that was running begins
    anew. `trials` may be raised between two calls.

    Args:
        study: a study, its YAML file, or plain data.
        out: the results file; made if it does not exist, gone on with if it is of this study.
        test: when all trials are done, ask the held-out data, with the uncompressed model, the front
            and the pipelines made by hand. That is done once: the file takes no more trials then.
        threads: of torch; by default those of the call that began the file. Equal numbers give equal
            results bit for bit.
        device: to load the model on.
        progress: called before each cell, and at the end.

    Returns:
        What was found.

    Raises:
        SearchError: what the study says cannot be meant.
        StoreError: the file is in use, damaged, full, or of something else; data, the checkpoint or
            the versions of packages have changed; more trials after the test.
        ConfigError: optuna or scipy is not installed.
        LightKVError: the model cannot be loaded.
    """
    import torch

    scipy_stats()
    optuna_library()
    study = SearchStudy.read(study) if isinstance(study, str | Path) else SearchStudy.parse(study)
    check_space(study)
    part = searched(study)
    if test:
        held_out(study)  # a study without such data is told so before hours of work
    with Store.create(out, study.identity(), versions=_versions()) as store:
        search = _Search(store, study, part, device, progress or (lambda step: None))
        before = torch.get_num_threads()
        try:
            search.begin(threads, test)
            search.trials()
            if test:
                search.test()
        finally:
            torch.set_num_threads(before)
    with Store.open(out) as store:
        return findings(store)


class _Search:
    """One call's work on a store."""

    def __init__(
        self, store: Store, study: SearchStudy, part: Part, device: str | None, report: Report
    ) -> None:
        self.store = store
        self.study = study
        self.part = part
        self._device = device
        self._report = report
        self._subject: Subject | None = None
        self._askers: dict[str, Asker] = {}
        self._beaten = 0
        self.cells: dict[str, Cell] = {}
        self.outcomes: dict[str, list[Outcome]] = {}

    def begin(self, threads: int | None, test: bool) -> None:
        """Check an old file, or note in a new one what it was begun with."""
        import torch

        cells = self.store.cells()
        left = self._trials_in(cells) < self.study.trials
        tested = self.store.meta.get(TESTED)
        if tested and left:
            raise StoreError(
                f"the held-out data were asked after {self._trials_in(cells)} trials; designs that are "
                "drawn now would be chosen with them in mind",
                field="--out",
                value=str(self.store.path),
                remedy="begin a new search with other held-out data, or leave trials as they were",
            )
        if cells:
            check_unchanged(self.store, cells, more=left or test)
        else:
            if isinstance(self.study.held_out, dict):  # a share splits by picture
                check_apart(self.part, held_out(self.study))
            self.store.update_meta(**begun_with([self._vanilla(self.part)]))
            self.store.update_meta(versions=_versions(), baseline=VANILLA)
        torch.set_num_threads(threads_of(self.store, threads))
        for cell in cells:
            self._keep(cell)

    # -- the search -------------------------------------------------------------------------------

    def trials(self) -> None:
        """Run what is left of the uncompressed model, the hand-made pipelines and the trials."""
        self._tell(None)
        self._run(self._vanilla(self.part), self.part)
        for cell in self._hand_made():
            self._run(cell, self.part)
        drawing = Drawing(self.study)
        for number in range(self.study.trials):
            drawn = drawing.draw()
            name = trial_name(number)
            if name in self.cells:
                self._check_same(self.cells[name], drawn)
            if self.cells.get(name) is None or self.cells[name].status == "pending":
                cell = self._solved(name, {"trial": str(number), **drawn.chosen}, drawn)
                self._run(cell, self.part, ends_early=True)
            drawing.tell(*self._goals(self.cells[name]))
        self._tell(None)

    def _goals(self, cell: Cell) -> tuple[float | None, float | None]:
        """Difference to the uncompressed model, and FLOPs; of a repeat those of its twin."""
        if cell.reason.startswith(REPEAT):
            cell = twin_of(cell, self.cells.values())
        if cell.status != "done":
            return None, None
        return worth(self.outcomes[VANILLA], self.outcomes[cell.name]), cell.flops

    def _check_same(self, cell: Cell, drawn: Design) -> None:
        there = {key: cell.factors.get(key) for key in drawn.chosen}
        if there == drawn.chosen and cell.factors["retention"] == label_text(drawn.retention):
            return
        before, now = (
            found.get("optuna", "") for found in (self.store.meta["versions"], _versions())
        )
        raise StoreError(
            f"the sampler draws another {cell.name!r} than the results hold (optuna was {before} and "
            f"is {now})",
            field="--out",
            value=str(self.store.path),
            remedy="install the optuna of then, or name another file and search anew",
        )

    # -- cells ------------------------------------------------------------------------------------

    def _vanilla(self, part: Part) -> Cell:
        return self._cell(_name(part, VANILLA), {"cell": VANILLA}, part, {}, None)

    def _hand_made(self) -> Iterator[Cell]:
        """The pipelines of `start` at every retention; one that says its own stages stands as it is.

        One after the other, because a cell takes the place after those that there are.
        """
        for label, pipeline in self.study.start.items():
            pipeline = seeded(pipeline, self.study.seed)
            if isinstance(pipeline.get("schedule"), list):
                yield self._cell(label, {"cell": label}, self.part, pipeline, None)
                continue
            for retention in self.study.retention:
                name = f"{label} retention={label_text(retention)}"
                yield self._solved(name, {"cell": label}, Design(retention, {}, pipeline))

    def _solved(self, name: str, factors: dict[str, str], drawn: Design) -> Cell:
        """The cell of a design, its stages solved; skipped where that cannot be, or is a repeat."""
        if name in self.cells and self.cells[name].status != "pending":
            return self.cells[name]
        asker, reason = self._asker(self.part), ""
        pipeline = drawn.pipeline
        try:
            pipeline = asker.solved(drawn.pipeline, drawn.retention)
            asker.price(pipeline)
        except UnknownNameError:
            raise  # a slip of the pen, not a finding
        except LightKVError as error:
            reason = writable(str(error))
        cell = self._cell(name, factors, self.part, pipeline, drawn.retention)
        if not reason:
            same = computation(cell)
            twins = (c for c in self.cells.values() if c.status in ("done", "failed"))
            twin = next((c for c in twins if c.name != name and computation(c) == same), None)
            reason = "" if twin is None else f"{REPEAT}{twin.name!r}"
        if not reason:
            return cell
        identity = cell_id({**cell.spec, "name": name})
        return replace(cell, id=identity, status="skipped", reason=reason)

    def _cell(
        self,
        name: str,
        factors: dict[str, str],
        part: Part,
        pipeline: dict[str, Any],
        retention: float | None,
    ) -> Cell:
        spec = {
            "model": self.study.model,
            "dtype": self.study.dtype,
            "task": part.task.spec(),
            "data": part.task.fingerprint(),
            "part": part.label,
            "seed": self.study.seed,
            "retention": retention,
            "pipeline": pipeline,
        }
        if retention is not None:
            factors = {**factors, "retention": label_text(retention)}
        factors = {**factors, "model": Path(self.study.model).name, "task": part.label}
        identity = cell_id(spec if pipeline else {**spec, "name": name})
        return Cell(identity, len(self.cells), name, factors, spec, "pending", "")

    def _keep(self, cell: Cell) -> None:
        self.cells[cell.name] = cell
        if cell.status == "done":
            self.outcomes[cell.name] = self.store.outcomes(cell.id)

    # -- running ----------------------------------------------------------------------------------

    def _run(self, cell: Cell, part: Part, ends_early: bool = False) -> None:
        """Run a cell that the store does not hold yet, or holds as pending."""
        known = self.cells.get(cell.name)
        if known is not None and known.status != "pending":
            return
        if known is None:
            self.store.add_cells([cell])
        else:
            cell = known
        if cell.status == "skipped":
            self._keep(cell)
            return
        self._tell(cell.name)
        self.store.start(cell)
        try:
            answers = self._answers(cell, part, ends_early)
        except KeyboardInterrupt:
            self.store.reset(cell)
            raise
        except Exception as error:  # noqa: BLE001 - a design that breaks must not end the search
            self._failed(cell, error)
            return
        self._beaten += bool(answers.beaten)
        ended = replace(
            cell,
            status="done",
            versions=_versions(),
            seconds=answers.seconds,
            retention=answers.used.retention,
            flops=answers.used.flops,
            kv_bytes=answers.used.kv_bytes,
            tokens=answers.used.tokens,
        )
        self.store.finish(ended, answers.outcomes)
        self._keep(ended)

    def _failed(self, cell: Cell, error: Exception) -> None:
        text = " ".join(str(error).split())[:500]
        kind = "" if isinstance(error, LightKVError) else f"{type(error).__name__}: "
        self.store.fail(cell, writable(kind + text))
        if not cell.spec["pipeline"]:
            raise error  # without the uncompressed model nothing can be compared
        self._keep(replace(cell, status="failed", reason=writable(kind + text)))

    def _answers(self, cell: Cell, part: Part, ends_early: bool) -> Answers:
        pipeline, reference = cell.spec["pipeline"], None
        beaten: Beaten | None = None
        if pipeline and part.task.needs_reference:
            there = self.outcomes[_name(part, VANILLA)]
            reference = {outcome.sample: outcome.answer for outcome in there}
        if ends_early and self.study.prune is not None:
            rule = Rule(self.study.prune, self.study.max_drop, part.task.accuracy, self.study.seed)

            def shown(outcomes: Sequence[Outcome], flops: float) -> str:
                return rule.ended_by(outcomes, flops, self.cells.values(), self.outcomes)

            beaten = shown

        return self._asker(part).ask(pipeline, reference, beaten)

    def _asker(self, part: Part) -> Asker:
        if self._subject is None:
            self._subject = Subject.load(
                self.study.model, dtype=self.study.dtype, device=self._device
            )
        if part.label not in self._askers:
            rungs = rungs_of(part, self.study.seed)
            if part.label == HELD_OUT:
                rungs = [[sample for rung in rungs for sample in rung]]
            self._askers[part.label] = Asker(self._subject, part.task, rungs, self.study.seed)
        return self._askers[part.label]

    # -- the test ---------------------------------------------------------------------------------

    def test(self) -> None:
        """Ask the held-out data once, with cells that are named before anything is asked."""
        part = held_out(self.study)
        if not self.store.meta.get(TESTED):
            found = findings(self.store)
            names = [tried.cell.name for tried in found.chosen]
            if not names:
                raise SearchError("no design could be run, so there is none to test", field="space")
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self.store.update_meta(**{TESTED: {"cells": names, "begun": now}})
        self._run(self._vanilla(part), part)
        for name in self.store.meta[TESTED]["cells"]:
            cell = self.cells[name]
            factors = {"cell": name}
            spec, retention = cell.spec["pipeline"], cell.spec["retention"]
            self._run(self._cell(_name(part, name), factors, part, spec, retention), part)
        self._tell(None)

    def _trials_in(self, cells: Sequence[Cell]) -> int:
        return sum("trial" in cell.factors and cell.status != "pending" for cell in cells)

    def _tell(self, cell: str | None) -> None:
        hand_made = sum(
            1 if isinstance(p.get("schedule"), list) else len(self.study.retention)
            for p in self.study.start.values()
        )
        total = 1 + hand_made + self.study.trials
        tested = self.store.meta.get(TESTED)
        total += 1 + len(tested["cells"]) if tested else 0
        done = sum(cell.status != "pending" for cell in self.cells.values())
        self._report(Progress(done, max(total, done), cell, self._beaten))


def trial_name(number: int) -> str:
    """Name of the cell of a trial, counted from 0."""
    return f"trial {number}"


def _name(part: Part, name: str) -> str:
    return f"{HELD_OUT_NAME}{name}" if part.label == HELD_OUT else name


def _versions() -> dict[str, str]:
    """Of what decides the figures, and of what decides which trials are drawn."""
    return {**versions(), "optuna": str(optuna_library().__version__)}
