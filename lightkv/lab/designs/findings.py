"""What a search found, read off its results file: designs, their front, the test on held-out data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lightkv.lab.designs.effects import Effect, Trial, effects_of
from lightkv.lab.designs.samples import HELD_OUT, SEARCHED
from lightkv.lab.errors import SearchError
from lightkv.lab.grids.cells import REPEAT, computation
from lightkv.lab.grids.schema import VANILLA
from lightkv.lab.grids.store import Store
from lightkv.lab.outcomes import Cell, Outcome
from lightkv.lab.reporting.front import NEAR, front
from lightkv.lab.stats import Estimate, are_shares, estimates

TESTED = "held_out"
"""Key of a file's `meta` from when its held-out data are asked: which cells, and when."""
HELD_OUT_NAME = "held-out "
"""Begins the name of the cell that asks the held-out data."""
Answered = Mapping[str, Sequence[Outcome]]


@dataclass(frozen=True)
class Tried:
    """A design of the search.

    Attributes:
        cell: as stored.
        drawn: by the sampler; else made by hand.
        samples: that it was asked; fewer than all where it ended early.
        finished: whether these are all.
        change: its score minus that of the uncompressed model on the same samples, in 0 to 1 or as a
            log-probability; None unless it ran.
        sure: the same with its 95 % interval; None unless it was asked all samples. Of many trials the
            best looks better than it is.
        repeats: name of the cell that computes the same; "" if it ran itself.
        on_front: whether no other design of all samples beats it.
    """

    cell: Cell
    drawn: bool
    samples: int = 0
    finished: bool = False
    change: float | None = None
    sure: Estimate | None = None
    repeats: str = ""
    on_front: bool = False

    @property
    def choices(self) -> dict[str, str]:
        """Path → what was chosen."""
        fixed = ("trial", "cell", "retention", "model", "task")
        return {key: label for key, label in self.cell.factors.items() if key not in fixed}

    @property
    def retention(self) -> str:
        """Label of the wanted retention; "" for explicit stages."""
        return self.cell.factors.get("retention", "")


@dataclass(frozen=True)
class Tested:
    """A design on the held-out data.

    Attributes:
        name: of the design.
        cell: with what it cost there.
        change: score minus that of the uncompressed model; clear with all tested designs in mind.
    """

    name: str
    cell: Cell
    change: Estimate


@dataclass(frozen=True)
class Duel:
    """At one retention the best drawn design against the best one made by hand, on held-out data.

    Both were chosen on the data of the search, so neither looks better than it is.

    Attributes:
        retention: label.
        drawn, hand_made: names.
        change: score of the drawn one minus that of the other; clear with all duels in mind.
    """

    retention: str
    drawn: str
    hand_made: str
    change: Estimate


@dataclass(frozen=True)
class Findings:
    """What a results file of a search says.

    Attributes:
        meta: of the file; `grid` holds the study under `search`.
        vanilla: the uncompressed model on the data of the search.
        score: its mean score.
        samples, clusters: of the search.
        share: whether scores are shares (shown in percent points).
        tried: the pipelines made by hand, then the trials, in order.
        effects: what the choices did, the strongest first.
        tests: on held-out data; empty unless they were asked.
        test_samples, test_clusters: that these are of.
        duels: on held-out data, one for each retention that has both sides.
    """

    meta: dict[str, Any]
    vanilla: Cell
    score: float
    samples: int
    clusters: int
    share: bool
    tried: tuple[Tried, ...]
    effects: tuple[Effect, ...]
    tests: tuple[Tested, ...] = ()
    test_samples: int = 0
    test_clusters: int = 0
    duels: tuple[Duel, ...] = field(default=())

    @property
    def study(self) -> dict[str, Any]:
        """The study as plain data, without `trials`."""
        found: dict[str, Any] = self.meta["grid"]["search"]
        return found

    @property
    def front(self) -> list[Tried]:
        """Designs that no other beats, the cheapest first."""
        found = [tried for tried in self.tried if tried.on_front]
        return sorted(found, key=lambda tried: tried.cell.flops or 0.0)

    @property
    def hand_made(self) -> list[Tried]:
        """Pipelines made by hand that ran."""
        return [tried for tried in self.tried if not tried.drawn and tried.finished]

    @property
    def retentions(self) -> list[str]:
        """Labels of the wanted retentions, in the study's order."""
        return list(dict.fromkeys(t.retention for t in self.tried if t.drawn))

    def best(self, retention: str, drawn: bool) -> Tried | None:
        """The best drawn, or hand-made, design at a retention on the data of the search."""
        some = [t for t in self.tried if t.finished and t.drawn is drawn]
        some = [t for t in some if t.retention == retention and not t.repeats]
        return max(some, key=lambda t: (t.change or 0.0, -(t.cell.flops or 0.0)), default=None)

    @property
    def chosen(self) -> list[Tried]:
        """What the test asks: the front, the best drawn design at each retention, all made by hand."""
        best = [self.best(retention, drawn=True) for retention in self.retentions]
        some = [*self.front, *(each for each in best if each is not None), *self.hand_made]
        return list({each.cell.name: each for each in some if not each.repeats}.values())

    def points(self, value: float, *, signed: bool = True) -> str:
        """A score or difference as text: in percent where scores are shares."""
        sign = "+" if signed else ""
        return f"{100.0 * value:{sign}.2f}" if self.share else f"{value:{sign}.4f}"


def worth(base: Sequence[Outcome], other: Sequence[Outcome]) -> float:
    """Mean difference of score on the samples that `other` was asked, all of which `base` has."""
    before = {outcome.sample: outcome.score for outcome in base}
    return float(np.mean([outcome.score - before[outcome.sample] for outcome in other]))


def twin_of(cell: Cell, cells: Iterable[Cell]) -> Cell:
    """The cell that computes the same as one that was skipped as a repeat."""
    same, part = computation(cell), cell.spec["part"]
    return next(
        other
        for other in cells
        if other.status != "skipped" and other.spec["part"] == part and computation(other) == same
    )


def strongest_rival(
    cells: Iterable[Cell], answered: Answered, flops: float, samples: int
) -> str | None:
    """Name of the best design so far that costs no more and was asked all samples."""
    rivals = {
        cell.name: float(np.mean([outcome.score for outcome in answered[cell.name]]))
        for cell in cells
        if _is_design(cell, SEARCHED)
        and cell.status == "done"
        and (cell.flops or 0.0) <= flops + NEAR
        and len(answered[cell.name]) == samples
    }
    return max(rivals, key=lambda name: rivals[name]) if rivals else None


def findings(store: Store) -> Findings:
    """What a results file of a search says; it may still be running.

    Raises:
        SearchError: the file is of a grid, or has no answers of the uncompressed model yet.
        ConfigError: scipy is not installed.
    """
    if "search" not in (store.meta.get("grid") or {}):
        raise SearchError(
            "the results are not of a search",
            field="--out",
            value=str(store.path),
            remedy="use `lightkv report` for the results of a grid",
        )
    cells = store.cells()
    answered = {cell.name: store.outcomes(cell.id) for cell in cells if cell.status == "done"}
    if VANILLA not in answered:
        raise SearchError(
            "the uncompressed model has not answered yet, so there is nothing to compare with",
            field="--out",
            value=str(store.path),
            remedy="go on with the same command",
        )
    base = answered[VANILLA]
    shares = are_shares(np.array([o.score for found in answered.values() for o in found]))
    tried = _tried(cells, answered)
    mean = float(np.mean([outcome.score for outcome in base]))
    found = Findings(
        meta=dict(store.meta),
        vanilla=next(cell for cell in cells if cell.name == VANILLA),
        score=mean,
        samples=len(base),
        clusters=len({outcome.cluster for outcome in base}),
        share=shares,
        tried=tried,
        effects=tuple(effects_of(_trials(tried))),
    )
    return _with_test(found, cells, answered)


# -- inside ---------------------------------------------------------------------------------------


def _is_design(cell: Cell, part: str) -> bool:
    return bool(cell.spec["pipeline"]) and cell.spec["part"] == part


def _tried(cells: Sequence[Cell], answered: Answered) -> tuple[Tried, ...]:
    """All designs of the search, those of all samples with intervals, those on the front marked."""
    designs = [cell for cell in cells if _is_design(cell, SEARCHED)]
    base = answered[VANILLA]
    whole = [c for c in designs if c.status == "done" and len(answered[c.name]) == len(base)]
    changes = _changes(base, [answered[cell.name] for cell in whole])
    sure = dict(zip((cell.name for cell in whole), changes, strict=True))
    best = front([(cell.flops, sure[cell.name].value) for cell in whole])
    on_front = {whole[number].name for number in best}
    found = []
    for cell in designs:
        source = twin_of(cell, designs) if cell.reason.startswith(REPEAT) else cell
        asked = answered.get(source.name, ())
        found.append(
            Tried(
                cell=cell,
                drawn="trial" in cell.factors,
                samples=len(asked),
                finished=len(asked) == len(base),
                change=worth(base, asked) if asked else None,
                sure=sure.get(source.name),
                repeats=source.name if source is not cell else "",
                on_front=cell.name in on_front,
            )
        )
    return tuple(found)


def _changes(base: Sequence[Outcome], others: Sequence[Sequence[Outcome]]) -> list[Estimate]:
    """Differences to `base` with intervals; clear with all of them in mind."""
    if not others:
        return []
    weights = np.vstack([-np.ones((1, len(others))), np.eye(len(others))])
    return estimates(_table([base, *others]), weights, [outcome.cluster for outcome in base])


def _table(columns: Sequence[Sequence[Outcome]]) -> Any:
    """`[samples, columns]` of scores; the store orders outcomes by sample."""
    names = [outcome.sample for outcome in columns[0]]
    assert all([outcome.sample for outcome in column] == names for column in columns)
    return np.array([[outcome.score for outcome in column] for column in columns]).T


def _trials(tried: Sequence[Tried]) -> list[Trial]:
    """The drawn designs that answered, for what their choices did."""
    return [
        Trial(each.retention, each.choices, each.change)
        for each in tried
        if each.drawn and each.change is not None and not each.repeats
    ]


def _with_test(found: Findings, cells: Sequence[Cell], answered: Answered) -> Findings:
    """The findings with what the held-out data say, if they were asked."""
    base = answered.get(HELD_OUT_NAME + VANILLA)
    tested = [c for c in cells if _is_design(c, HELD_OUT) and c.status == "done"]
    if base is None or not tested:
        return found
    changes = _changes(base, [answered[cell.name] for cell in tested])
    tests = tuple(
        Tested(cell.name.removeprefix(HELD_OUT_NAME), cell, change)
        for cell, change in zip(tested, changes, strict=True)
    )
    return replace(
        found,
        tests=tests,
        test_samples=len(base),
        test_clusters=len({outcome.cluster for outcome in base}),
        duels=tuple(_duels(found, answered)),
    )


def _duels(found: Findings, answered: Answered) -> list[Duel]:
    sides = []
    for retention in found.retentions:
        pair = [found.best(retention, drawn=drawn) for drawn in (True, False)]
        names = [HELD_OUT_NAME + each.cell.name for each in pair if each is not None]
        if len(names) == 2 and all(name in answered for name in names):
            sides.append((retention, *names))
    if not sides:
        return []
    columns = [answered[name] for _, *names in sides for name in names]
    weights = np.zeros((len(columns), len(sides)))
    for number in range(len(sides)):
        weights[2 * number, number], weights[2 * number + 1, number] = 1.0, -1.0
    clusters = [outcome.cluster for outcome in columns[0]]
    changes = estimates(_table(columns), weights, clusters)
    return [
        Duel(retention, *(name.removeprefix(HELD_OUT_NAME) for name in (drawn, made)), change)
        for (retention, drawn, made), change in zip(sides, changes, strict=True)
    ]
