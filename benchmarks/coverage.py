"""How often the lab's 95 % intervals hold the true value, on simulated data of few samples.

    python benchmarks/coverage.py [--runs 1000] [--write docs/lab.md]

Data sets of 20, 50 and 200 samples are drawn from a known truth, and `lightkv.lab.stats` gives its
intervals: of a mean, and of the difference between two cells that answered the same samples. An interval
of 95 % should hold the truth in 95 % of the data sets or more. `ablate`, `report`, `compare` and
`export` print these intervals, and `tune` takes its bounds from the same function.
Three minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightkv.lab.stats import CHANGE, estimates

SIZES = (20, 50, 200)
RESAMPLES = 2000
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Kind:
    """A way to draw data.

    Attributes:
        name: in the table.
        draw: generator and number of samples → scores `[n, cells]` and the cluster of each sample.
        weights: `[cells, 1]` of what is estimated.
        truth: its value.
    """

    name: str
    draw: Callable[[np.random.Generator, int], tuple[Floats, Floats]]
    weights: Floats
    truth: float


def right(share: float) -> Kind:
    """The mean of right answers."""

    def draw(generator: np.random.Generator, number: int) -> tuple[Floats, Floats]:
        scores = (generator.uniform(size=(number, 1)) < share).astype(np.float64)
        return scores, np.arange(number, dtype=np.float64)

    return Kind(f"mean, {share:.0%} right", draw, np.ones((1, 1)), share)


def changed(share: float, lost: float, won: float, questions: int = 1) -> Kind:
    """The difference of two cells: of `share` right answers some are lost, of the others some won.

    With several questions about a picture all of them are lost, or won, or none.
    """

    def draw(generator: np.random.Generator, number: int) -> tuple[Floats, Floats]:
        pictures = number // questions
        before = generator.uniform(size=pictures) < share
        turned = generator.uniform(size=pictures) < np.where(before, lost, won)
        scores = np.stack([before, before ^ turned], axis=1).astype(np.float64)
        places = np.repeat(np.arange(pictures), questions)
        return scores[places], places.astype(np.float64)

    truth = (1.0 - share) * won - share * lost
    about = f", {questions} questions a picture" if questions > 1 else ""
    name = f"difference, {share:.0%} right, {lost:.0%} of it lost, {won:.0%} won{about}"
    return Kind(name, draw, CHANGE, truth)


def graded() -> Kind:
    """The difference of graded scores: shares of right items in a list of three."""

    def draw(generator: np.random.Generator, number: int) -> tuple[Floats, Floats]:
        ability = generator.beta(8, 2, size=number)
        scores = [generator.binomial(3, p) / 3.0 for p in (ability, 0.9 * ability)]
        return np.stack(scores, axis=1), np.arange(number, dtype=np.float64)

    return Kind("difference of graded scores, a tenth lost", draw, CHANGE, -0.08)


def likely() -> Kind:
    """The difference of log-probabilities, which have a long tail."""

    def draw(generator: np.random.Generator, number: int) -> tuple[Floats, Floats]:
        before = -generator.exponential(0.5, size=number)
        after = before - generator.exponential(0.2, size=number)
        return np.stack([before, after], axis=1), np.arange(number, dtype=np.float64)

    return Kind("difference of log-probabilities, a skewed loss", draw, CHANGE, -0.2)


KINDS = (
    right(0.97),
    right(0.8),
    changed(0.97, 0.0, 0.0),
    changed(0.95, 0.02, 0.02),
    changed(0.9, 0.1, 0.05),
    changed(0.9, 0.4, 0.1),
    changed(0.9, 0.1, 0.05, questions=5),
    graded(),
    likely(),
)


def coverage(kind: Kind, number: int, runs: int) -> tuple[float, float]:
    """Share of data sets whose interval holds the truth, and the mean width of intervals."""
    generator, held, width = np.random.default_rng(0), 0, 0.0
    for run in range(runs):
        scores, clusters = kind.draw(generator, number)
        shares = scores.min() >= 0.0
        [found] = estimates(
            scores, kind.weights, clusters, shares=bool(shares), resamples=RESAMPLES, seed=run
        )
        held += found.low <= kind.truth <= found.high
        width += found.high - found.low
    return held / runs, width / runs


def table(runs: int) -> str:
    """The figures as a table of a page."""
    heads = [f"{number} samples" for number in SIZES]
    lines = [f"| what is estimated | {' | '.join(heads)} |", "|---|" + "---|" * len(SIZES)]
    for kind in KINDS:
        cells = []
        for number in SIZES:
            held, width = coverage(kind, number, runs)
            cells.append(f"{100 * held:.1f} % (width {width:.3f})")
        lines.append(f"| {kind.name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--write", type=Path, help="A page with the two marks to write it between.")
    options = parser.parse_args()
    found = table(options.runs)
    if options.write is not None:
        text = options.write.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        options.write.write_text(f"{before}{BEGIN}\n{found}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
