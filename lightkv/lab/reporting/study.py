"""The figures of a finished grid: scores with intervals, differences to baselines, kinds.

Cells that answered the same samples share one set of bootstrap draws, so any average or difference of
them is paired. What the page calls real is corrected for all comparisons of its kind on the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightkv.lab.errors import StoreError
from lightkv.lab.grids.cells import repeats
from lightkv.lab.outcomes import Cell, Outcome
from lightkv.lab.reporting.front import front
from lightkv.lab.stats import (
    LEVEL,
    RESAMPLES,
    Estimate,
    Floats,
    are_shares,
    estimates,
    holm,
    mcnemar_of,
)

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
        change: its score minus that of `base`, paired; clear among all such differences of the page.
        p: McNemar's, exact; None where scores are no answers (log-probabilities).
        holm: the same, corrected for all such tests of the page.
        kinds: kind of question → its figures.
        front: `retention`, `flops`: costs by which no other cell of the group beats it, see `front`.
        twin: of a row in `Group.repeats`: the row whose figures it has.
    """

    cell: Cell
    group: int | None = None
    score: Estimate | None = None
    base: str | None = None
    change: Estimate | None = None
    p: float | None = None
    holm: float | None = None
    kinds: dict[str, KindScore] = field(default_factory=dict)
    front: set[str] = field(default_factory=set)
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


Rows = Sequence[Row]


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
        scores: `[samples, rows]`.
        owner, kind: `[samples]`, the number of each sample's cluster and its kind of question.
        risk: probability that something of one kind is called real in this group without being so.
        resamples: of the bootstrap.
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
    scores: Floats
    owner: NDArray[np.intp]
    kind: NDArray[np.str_]
    risk: float
    resamples: int
    repeats: list[Row] = field(default_factory=list)

    @property
    def design(self) -> list[Row]:
        """All points of the grid that have figures, in its order: rows and repeats."""
        return sorted([*self.rows, *self.repeats], key=lambda row: row.cell.position)

    @property
    def retentions(self) -> list[str]:
        """Labels of the wanted retentions of its compressed cells, largest first."""
        found = {row.retention for row in self.rows if not row.plain}
        return sorted(found, key=lambda label: (-_number(label), label))

    @property
    def levels(self) -> list[str | None]:
        """What effects are told of: all retentions together (None), then each of several."""
        found = self.retentions
        return [None, *(found if len(found) > 1 else [])]

    @property
    def vanilla(self) -> Row | None:
        """The uncompressed model."""
        return next((row for row in self.rows if row.plain), None)

    def estimates(
        self, parts: Sequence[tuple[Rows, Rows]], families: int = 1, kind: str | None = None
    ) -> list[Estimate]:
        """Mean scores of points of its design, less those of other points; with bounds.

        Args:
            parts: the points, and those whose mean is taken off (none: the score itself). Which of
                these differences are clear is told of all parts together.
            families: calls of which the page speaks in one breath, so that they share the risk.
            kind: of question; None for all samples.
        """
        if not parts:
            return []
        chosen = np.ones(self.samples, dtype=bool) if kind is None else self.kind == kind
        return estimates(
            self.scores[chosen],
            np.stack([self._mean(rows) - self._mean(less) for rows, less in parts], axis=1),
            self.owner[chosen],
            shares=self.share,
            family=self.risk / families,
            resamples=self.resamples,
        )

    def average(self, rows: Rows) -> float:
        """Mean score of some points of its design, without bounds."""
        return float((self.scores @ self._mean(rows)).mean())

    def _mean(self, rows: Rows) -> Floats:
        """Weights `[rows]` of the mean score of points of the design; zeros for no points."""
        chosen = [row.twin or row for row in rows]
        counts = [sum(row is own for row in chosen) for own in self.rows]
        return np.array(counts, dtype=np.float64) / max(1, len(chosen))


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


def build_study(
    cells: Sequence[Cell],
    outcomes: Callable[[str], Sequence[Outcome]],
    meta: Mapping[str, Any],
    *,
    resamples: int = RESAMPLES,
) -> Study:
    """Figures of all cells.

    Args:
        cells: of one grid.
        outcomes: identity of a finished cell → its outcomes.
        meta: of the results file; `baselines` and `baseline` name what cells are compared with.
        resamples: of the bootstrap over clusters.

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
    groups = [
        _group(number, members, (1.0 - LEVEL) / len(tables), resamples)
        for number, members in enumerate(tables.values())
    ]
    _tell_apart(groups)
    compared = _baselines(rows, meta)
    for group in groups:
        _fill(group, compared)
    for row, p in zip(rows, holm([row.p for row in rows]), strict=True):
        row.holm = p
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


def _group(number: int, members: list[tuple[Row, _Answers]], risk: float, resamples: int) -> Group:
    first = members[0][1]
    scores = np.stack([answers.scores for _, answers in members], axis=1)
    for row, _ in members:
        row.group = number
    model, task = (_label(members[0][0].cell, factor) for factor in ("model", "task"))
    return Group(
        label=f"{model} · {task}",
        model=model,
        task=task,
        rows=[row for row, _ in members],
        samples=len(first.scores),
        clusters=len(np.unique(first.owner)),
        kinds=sorted(set(first.kinds.tolist()) - {""}),
        share=are_shares(scores),
        scores=scores,
        owner=first.owner,
        kind=first.kinds,
        risk=risk,
        resamples=resamples,
    )


def _fill(group: Group, compared: dict[str, str]) -> None:
    """Set the rows' figures."""
    rows = group.rows
    place = {row.cell.name: column for column, row in enumerate(rows)}
    for row in rows:
        row.base = compared.get(row.cell.name)
        row.base = row.base if row.base in place else None
    scores: list[tuple[Rows, Rows]] = [([row], []) for row in rows]
    against = {column: place[row.base] for column, row in enumerate(rows) if row.base is not None}
    changes = [([rows[column]], [rows[base]]) for column, base in against.items()]
    for row, score in zip(rows, group.estimates(scores), strict=True):
        row.score = score
    for (column, base), change in zip(against.items(), group.estimates(changes), strict=True):
        rows[column].change = change
        if group.share:
            rows[column].p = mcnemar_of(group.scores[:, base], group.scores[:, column])
    for kind in group.kinds:
        count = int((group.kind == kind).sum())
        found = group.estimates(scores, kind=kind)
        gaps = dict(zip(against, group.estimates(changes, len(group.kinds), kind), strict=True))
        for column, (row, score) in enumerate(zip(rows, found, strict=True)):
            row.kinds[kind] = KindScore(count, score, gaps.get(column))
    for name in ("retention", "flops"):
        best = front([(getattr(row.cell, name), row.score.value) for row in rows if row.score])
        for column in best:
            rows[column].front.add(name)


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
