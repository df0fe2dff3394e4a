"""How often the bounds of `lightkv tune` accept data whose true loss is exactly the threshold.

    python benchmarks/bounds.py [--runs 1500]

Simulated data sets: a share of the pictures is hard, and each question about a hard picture is lost
with a probability, so that losses come in clusters. A bound of 5 % should accept at most 5 % of them.
About ten minutes on one core with 1,500 runs.
"""

from __future__ import annotations

import argparse

import numpy as np

from lightkv.lab.outcomes import Outcome
from lightkv.lab.search.loss_bounds import margin

ALPHA = 0.05
RESAMPLES = 2000
KINDS = (
    (300, 4, 0.2, 0.25),
    (300, 4, 0.1, 0.2),
    (200, 6, 0.05, 0.5),
    (300, 1, 0.02, 1.0),
    (200, 6, 0.02, 1.0),
    (100, 20, 0.02, 1.0),
    (500, 6, 0.01, 1.0),
    (1000, 3, 0.02, 0.5),
)
"""Pictures, questions about each, share of hard pictures, share of their questions that are lost."""


def outcomes(scores: list[float], questions: int) -> list[Outcome]:
    """One outcome for each score, `questions` of them about one picture."""
    return [Outcome(f"{n}", f"{n // questions}", "", "", "", s) for n, s in enumerate(scores)]


def accepted(pictures: int, questions: int, hard: float, lost: float, runs: int) -> float:
    """Share of data sets that are accepted at their own true loss."""
    draw, wrong, number = np.random.default_rng(0), 0, pictures * questions
    base = outcomes([1.0] * number, questions)
    for run in range(runs):
        fails = np.repeat(draw.uniform(size=pictures) < hard, questions)
        fails &= draw.uniform(size=number) < lost
        other = outcomes(list(1.0 - fails.astype(float)), questions)
        found = margin(base, other, ALPHA, seed=run, resamples=RESAMPLES)
        wrong += found.verdict(hard * lost) == "accepted"
    return wrong / runs


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1500)
    options = parser.parse_args()
    print(
        "| pictures | questions about each | hard pictures | of their questions lost | accepted |"
    )
    print("|---|---|---|---|---|")
    for pictures, questions, hard, lost in KINDS:
        share = accepted(pictures, questions, hard, lost, options.runs)
        print(
            f"| {pictures} | {questions} | {hard:.0%} | {lost:.0%} | {100 * share:.1f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()
