"""What mattered: how much of the trials' differences goes with each choice.

Scores are compared within a retention. A choice's share of the variance is ω² (Hays, "Statistics for
Psychologists", 1963), which is 0 on average where the choice does nothing. Whether it is more than that
is told by permutation of the scores within each retention (Pitman, JRSS Supplement 4, 1937), corrected
after Holm for all choices. A sampler that learns tries what it likes more often, in the company that it
likes, so this is what went together in the trials and no experiment: a grid of the choice is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightkv.lab.stats import Floats, holm

FEWEST = 6
"""Trials that met a choice; of fewer nothing is said."""
ENOUGH = 20
"""Trials of a choice below which what it did is not told from chance. ω² of a choice of three options
that does nothing exceeds 21 % in one of twenty searches of 20 trials, and 54 % in one of twenty of 8
(quantiles of F). A sampler that learns draws 10 trials at random; the later ones follow the scores."""
MANY = 6
"""Different numbers from which on a choice is looked at in thirds."""
SHUFFLES = 999


@dataclass(frozen=True)
class Trial:
    """What an effect is told from.

    Attributes:
        retention: label.
        choices: path → what was chosen.
        change: of the score against the uncompressed model.
    """

    retention: str
    choices: Mapping[str, str]
    change: float


@dataclass(frozen=True)
class Level:
    """One option of a choice, or a third of the numbers drawn.

    Attributes:
        label: of it.
        trials: that chose it.
        gain: their mean score above that of all trials with the choice at the same retention.
    """

    label: str
    trials: int
    gain: float


@dataclass(frozen=True)
class Effect:
    """One choice.

    Attributes:
        path: where it stands.
        trials: that met it.
        share: ω², share of the variance within a retention that goes with it; 0 if nothing does.
        p: of no effect, by permutation, after Holm; at least 1 / (`SHUFFLES` + 1).
        levels: what was chosen, the best first.
    """

    path: str
    trials: int
    share: float
    p: float
    levels: tuple[Level, ...]

    @property
    def enough(self) -> bool:
        """Whether so many trials met it that its figures are worth reading."""
        return self.trials >= ENOUGH


def effects_of(trials: Sequence[Trial], seed: int = 0) -> list[Effect]:
    """The effect of every choice that was made in more than one way, the strongest first."""
    found = []
    for path in dict.fromkeys(path for trial in trials for path in trial.choices):
        met = [trial for trial in trials if path in trial.choices]
        labels = _in_thirds([trial.choices[path] for trial in met])
        if len(met) >= FEWEST and 1 < len(set(labels)) < len(met):
            found.append(_effect(path, met, labels, np.random.default_rng(seed)))
    corrected = holm([effect.p for effect in found])
    told = [
        Effect(e.path, e.trials, e.share, 1.0 if p is None else p, e.levels)
        for e, p in zip(found, corrected, strict=True)
    ]
    return sorted(told, key=lambda effect: (-effect.share, effect.p, effect.path))


def _effect(
    path: str, trials: Sequence[Trial], labels: Sequence[str], rng: np.random.Generator
) -> Effect:
    _, block = np.unique([trial.retention for trial in trials], return_inverse=True)
    names, level = np.unique(labels, return_inverse=True)
    rest = _less_means(np.array([trial.change for trial in trials]), block)
    between = _between(rest, level)
    shuffled = [_between(_shuffled(rest, block, rng), level) for _ in range(SHUFFLES)]
    chance = (1 + sum(other >= between - 1e-12 for other in shuffled)) / (1 + SHUFFLES)
    total, free = float((rest**2).sum()), len(names) - 1
    inside = (total - between) / max(1, len(rest) - len(names) - int(block.max()))
    share = (between - free * inside) / (total + inside) if total > 0.0 else 0.0
    levels = [
        Level(str(name), int((level == place).sum()), float(rest[level == place].mean()))
        for place, name in enumerate(names)
    ]
    levels.sort(key=lambda each: -each.gain)
    return Effect(path, len(trials), max(0.0, share), chance, tuple(levels))


def _less_means(values: Floats, block: NDArray[np.intp]) -> Floats:
    """Values less the mean of their block."""
    means = np.bincount(block, weights=values) / np.bincount(block)
    return np.asarray(values - means[block], dtype=np.float64)


def _between(rest: Floats, level: NDArray[np.intp]) -> float:
    """Sum of squares between levels, of values whose mean is 0."""
    return float((np.bincount(level, weights=rest) ** 2 / np.bincount(level)).sum())


def _shuffled(rest: Floats, block: NDArray[np.intp], rng: np.random.Generator) -> Floats:
    found = rest.copy()
    for number in range(int(block.max()) + 1):
        here = block == number
        found[here] = rng.permutation(rest[here])
    return found


def _in_thirds(labels: Sequence[str]) -> list[str]:
    """Labels as they are; of many different numbers, the third that each of them is in."""
    try:
        numbers = np.array([float(label) for label in labels])
    except ValueError:
        return list(labels)
    if len(set(labels)) < MANY:
        return list(labels)
    ends = np.quantile(numbers, [0.0, 1 / 3, 2 / 3, 1.0])
    place = np.searchsorted(ends[1:3], numbers, side="left")
    return [f"{ends[k]:.3g} to {ends[k + 1]:.3g}" for k in place]
