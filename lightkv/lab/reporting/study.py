"""The figures of a finished grid: scores with intervals, differences to baselines, kinds.

Cells that answered the same samples share one set of bootstrap draws, so intervals of any average or
difference of cells follow from the resampled means of the cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightkv.lab.errors import StoreError
from lightkv.lab.grids.cells import repeats
from lightkv.lab.outcomes import Cell, Outcome
from lightkv.lab.reporting.bootstrap import (
    Estimate,
    Floats,
    bounds,
    estimate,
    front,
    resampled_means,
)
from lightkv.lab.stats import RESAMPLES, mcnemar

FIXED = ("model", "task", "retention", "seed")
"""Factors of every grid; all others are the axes of a study."""
VANILLA = "vanilla"


@dataclass(frozen=True)
class KindScore:
    """One kind of question in one cell: samples, mean score, difference to the baseline."""

    samples: int
    score: Estimate
    change: Estimate | None


@dataclass
class Row:
    """A cell with its figures.

    Attributes:
        cell: as stored.
        group: number of its group; None unless the cell is done.
        score: mean over samples.
        base: name of the cell that it is compared with; None if there is none with the same samples.
        change: its score minus that of `base`, paired.
        p: McNemar's, exact; None where scores are no answers (log-probabilities).
        kinds: kind of question → its figures.
        front: whether no other cell of the group beats it, see `front`; (by retention, by FLOPs).
        twin: of a row in `Group.repeats`: the row whose figures it has.
    """

    cell: Cell
    group: int | None = None
    score: Estimate | None = None
    base: str | None = None
    change: Estimate | None = None
    p: float | None = None
    kinds: dict[str, KindScore] = field(default_factory=dict)
    front: tuple[bool, bool] = (False, False)
    twin: Row | None = None

    @property
    def plain(self) -> bool:
        """Whether the cell is the uncompressed model."""
        return not self.cell.spec.get("pipeline")

    @property
    def retention(self) -> str:
        """Label of the wanted retention; empty if the grid does not give one."""
        return self.cell.factors.get("retention", "")

    @property
    def setting(self) -> dict[str, str]:
        """What the cell is apart from model, task, retention and seed."""
        return {k: v for k, v in self.cell.factors.items() if k not in FIXED}


@dataclass
class Group:
    """Cells of one model that answered the same samples.

    Attributes:
        label: model and task, and what tells it from other groups of these.
        model, task: as the grid names them.
        rows: those that are done, in the grid's order.
        samples, clusters: how many.
        kinds: of questions.
        share: whether scores lie between 0 and 1 (shown in percent), or are log-probabilities.
        means: `[resamples, rows]`, the rows' scores under common draws of clusters.
        repeats: cells that were skipped because one of the rows computes the same, with that row's
            figures. They count in averages over the grid's axes, and are no results of their own.
    """

    label: str
    model: str
    task: str
    rows: list[Row]
    samples: int
    clusters: int
    kinds: list[str]
    share: bool
    means: Floats
    repeats: list[Row] = field(default_factory=list)

    @property
    def design(self) -> list[Row]:
        """All points of the grid that have figures, in its order: rows and repeats."""
        return sorted([*self.rows, *self.repeats], key=lambda row: row.cell.position)

    @property
    def vanilla(self) -> Row | None:
        """The uncompressed model."""
        return next((row for row in self.rows if row.plain), None)

    def average(self, rows: Iterable[Row]) -> Estimate:
        """Mean score of some points of its design."""
        chosen = list(rows)
        columns = [self._column(row) for row in chosen]
        return estimate(
            float(np.mean([row.score.value for row in chosen if row.score])),
            self.means[:, columns].mean(axis=1),
        )

    def contrast(self, pairs: Sequence[tuple[Row, Row]]) -> Estimate:
        """Mean over pairs of points of its design of the second's score minus the first's."""
        first, second = (
            self.means[:, [self._column(pair[side]) for pair in pairs]].mean(axis=1)
            for side in (0, 1)
        )
        gaps = [b.score.value - a.score.value for a, b in pairs if a.score and b.score]
        return estimate(float(np.mean(gaps)), second - first)

    def _column(self, row: Row) -> int:
        """Of `means`."""
        wanted = row.twin or row
        return next(column for column, own in enumerate(self.rows) if own is wanted)


@dataclass
class Study:
    """All that the page shows, before it is drawn.

    Attributes:
        meta: of the results file.
        rows: all cells, in the grid's order.
        groups: of the cells that are done.
        axes: axis → its labels, in the grid's order; only axes with more than one label.
    """

    meta: dict[str, Any]
    rows: list[Row]
    groups: list[Group]
    axes: dict[str, list[str]]

    def retentions(self, group: Group) -> list[str]:
        """Labels of the wanted retentions of its compressed cells, largest first."""
        found = {row.retention for row in group.rows if not row.plain}
        return sorted(found, key=lambda label: (-_number(label), label))


def build_study(
    cells: Sequence[Cell],
    outcomes: Callable[[str], Sequence[Outcome]],
    meta: Mapping[str, Any],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Study:
    """Figures of all cells.

    Args:
        cells: of one grid.
        outcomes: identity of a finished cell → its outcomes.
        meta: of the results file; `baselines` and `baseline` name what cells are compared with.
        resamples, seed: of the bootstrap over clusters.

    Raises:
        StoreError: no cell is done.
    """
    rows = [Row(cell) for cell in sorted(cells, key=lambda cell: cell.position)]
    tables: dict[Any, list[tuple[Row, _Answers]]] = {}
    for row in rows:
        if row.cell.status != "done":
            continue
        answers = _Answers.of(outcomes(row.cell.id))
        key = (row.cell.spec.get("model"), _label(row.cell, "task"), answers.identity)
        tables.setdefault(key, []).append((row, answers))
    if not tables:
        raise StoreError(
            "no cell has finished, so there is nothing to report",
            field="results",
            value=f"{len(rows)} cells",
            remedy="go on with `lightkv ablate` on the same grid and file",
        )
    groups = [_group(n, members, resamples, seed) for n, members in enumerate(tables.values())]
    _tell_apart(groups)
    compared = _baselines(rows, meta)
    for group, members in zip(groups, tables.values(), strict=True):
        _fill(group, [answers for _, answers in members], compared, resamples, seed)
    _add_repeats(rows, groups)
    return Study(dict(meta), rows, groups, _axes(rows))


# -- inside ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Answers:
    """A cell's outcomes as columns, ordered by sample; `owner` is the number of the cluster."""

    identity: int
    scores: Floats
    owner: NDArray[np.intp]
    kinds: NDArray[np.str_]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> _Answers:
        if not outcomes:
            raise StoreError(
                "a finished cell has no outcomes",
                field="results",
                remedy="run the grid again into a new file",
            )
        ordered = sorted(outcomes, key=lambda outcome: outcome.sample)
        _, owner = np.unique([outcome.cluster for outcome in ordered], return_inverse=True)
        return cls(
            hash(tuple((outcome.sample, outcome.cluster) for outcome in ordered)),
            np.array([outcome.score for outcome in ordered], dtype=np.float64),
            owner,
            np.array([outcome.kind for outcome in ordered], dtype=np.str_),
        )


def _group(number: int, members: list[tuple[Row, _Answers]], resamples: int, seed: int) -> Group:
    first = members[0][1]
    scores = np.stack([answers.scores for _, answers in members], axis=1)
    for row, _ in members:
        row.group = number
    counts = np.bincount(first.owner).astype(np.float64)[:, None]
    model, task = (_label(members[0][0].cell, factor) for factor in ("model", "task"))
    return Group(
        label=f"{model} · {task}",
        model=model,
        task=task,
        rows=[row for row, _ in members],
        samples=len(first.scores),
        clusters=len(counts),
        kinds=sorted(set(first.kinds.tolist()) - {""}),
        share=bool(scores.min() >= 0.0 and scores.max() <= 1.0),
        means=resampled_means(_totals(first.owner, scores), counts, resamples, seed),
    )


def _fill(
    group: Group, answers: list[_Answers], compared: dict[str, str], resamples: int, seed: int
) -> None:
    """Set the rows' figures."""
    rows = group.rows
    low, high = bounds(group.means)
    place = {row.cell.name: column for column, row in enumerate(rows)}
    for column, row in enumerate(rows):
        value = float(answers[column].scores.mean())
        row.score = Estimate(value, float(low[column]), float(high[column]))
        row.base = compared.get(row.cell.name)
        row.base = row.base if row.base in place else None
    for column, row in enumerate(rows):
        if row.base is None:
            continue
        base, mine = answers[place[row.base]].scores, answers[column].scores
        drawn = group.means[:, column] - group.means[:, place[row.base]]
        row.change = estimate(float((mine - base).mean()), drawn)
        if group.share:
            was, now = base >= 1.0, mine >= 1.0
            row.p = mcnemar(int((~was & now).sum()), int((was & ~now).sum()))
    for kind in group.kinds:
        _fill_kind(group, kind, answers, place, resamples, seed)
    for number, name in enumerate(("retention", "flops")):
        best = front([(getattr(row.cell, name), row.score.value) for row in rows if row.score])
        for column, row in enumerate(rows):
            marks = list(row.front)
            marks[number] = column in best
            row.front = (marks[0], marks[1])


def _fill_kind(
    group: Group,
    kind: str,
    answers: list[_Answers],
    place: dict[str, int],
    resamples: int,
    seed: int,
) -> None:
    chosen = answers[0].kinds == kind
    owner = answers[0].owner
    scores = np.stack([each.scores for each in answers], axis=1)[chosen]
    counts = np.bincount(owner[chosen], minlength=group.clusters).astype(np.float64)[:, None]
    totals = _totals(owner[chosen], scores, group.clusters)
    means = resampled_means(totals, counts, resamples, seed)
    for column, row in enumerate(group.rows):
        change = None
        if row.base is not None:
            base = place[row.base]
            gap = float((scores[:, column] - scores[:, base]).mean())
            change = estimate(gap, means[:, column] - means[:, base])
        score = estimate(float(scores[:, column].mean()), means[:, column])
        row.kinds[kind] = KindScore(int(chosen.sum()), score, change)


def _add_repeats(rows: Sequence[Row], groups: Sequence[Group]) -> None:
    """Give the groups their `repeats`; the skipped rows themselves stay as they are."""
    first = repeats([row.cell for row in rows])
    by_id = {row.cell.id: row for row in rows}
    for row in rows:
        twin = by_id[first[row.cell.id].id] if row.cell.id in first else None
        if twin is not None and twin.group is not None:
            cell = replace(twin.cell, id=row.cell.id, name=row.cell.name, factors=row.cell.factors)
            cell = replace(cell, position=row.cell.position)
            lent = Row(cell, twin.group, twin.score, kinds=twin.kinds, twin=twin)
            groups[twin.group].repeats.append(lent)


def _totals(owner: NDArray[np.intp], scores: Floats, clusters: int = 0) -> Floats:
    """`[clusters, columns]` sums of `scores` `[n, columns]`."""
    columns = [np.bincount(owner, weights=column, minlength=clusters) for column in scores.T]
    return np.stack(columns, axis=1)


def _label(cell: Cell, factor: str) -> str:
    """Label of the model or task; from the spec where the grid has but one."""
    given = cell.factors.get(factor, cell.spec.get(factor, ""))
    return str(given.get("name", "")) if isinstance(given, Mapping) else str(given)


def _tell_apart(groups: list[Group]) -> None:
    labels = [group.label for group in groups]
    for number, group in enumerate(groups):
        if labels.count(group.label) > 1:
            group.label += f" · {group.samples} samples ({labels[: number + 1].count(group.label)})"


def _baselines(rows: Sequence[Row], meta: Mapping[str, Any]) -> dict[str, str]:
    """Name of a cell → name of the cell that it is compared with."""
    given = meta.get("baselines")
    if given:
        return dict(given)
    one = meta.get("baseline")
    return {row.cell.name: one for row in rows if one and row.cell.name != one}


def _axes(rows: Sequence[Row]) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        if not row.plain:
            for axis, label in row.setting.items():
                found.setdefault(axis, {})[label] = None
    return {axis: list(labels) for axis, labels in found.items() if len(labels) > 1}


def _number(label: str) -> float:
    try:
        return float(label)
    except ValueError:
        return 0.0
