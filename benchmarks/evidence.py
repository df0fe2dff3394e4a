"""Puts the study's figures into docs/evidence.md, and draws its curves (extras `lab`, `plot`).

    python benchmarks/evidence.py [--kept benchmarks/results/evidence] [--page docs/evidence.md]

Reads what `python benchmarks/study.py` keeps of each grid and search. What has not run is named as
such; a block without any results says which grids it waits for. Curves are drawn beside the page, in
`images`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evidence_page import effects, guidance, presets, searches, tokens
from kept import Kept, read, short
from report import fill
from study import HERE, KEPT, ORDER

from lightkv.lab import Grid

PAGE = HERE.parent / "docs" / "evidence.md"
NAMES = tuple(each.partition("/")[2] for each in ORDER)
Draw = Callable[[str, Any], str]
"""Name and what makes a figure → the line of Markdown that shows it; "" where nothing is drawn."""


class Evidence:
    """All that is kept, and what a block makes of it.

    Args:
        folder: of `study.py`'s texts.
        draw: saves a figure.
    """

    def __init__(self, folder: Path, draw: Draw) -> None:
        self.kept = {
            name: read(folder / f"{name}.json")
            for name in NAMES
            if (folder / f"{name}.json").exists()
        }
        self.draw = draw

    def some(self, *names: str) -> list[Kept]:
        """Of these, those that have answers."""
        return [self.kept[name] for name in names if self._answered(name)]

    def _answered(self, name: str) -> bool:
        kept = self.kept.get(name)
        return kept is not None and (bool(kept.found) or kept.count("done") > 0)

    def waits(self, *names: str) -> str:
        """Which of these have not run, as a sentence; "" if all have."""
        missing = [f"`{name}`" for name in names if not self._answered(name)]
        return f"Not run yet: {', '.join(missing)}." if missing else ""

    def _together(
        self,
        names: Sequence[str],
        told: Callable[[list[Kept]], str],
        file: str = "",
        curves: str = "",
    ) -> str:
        """What is told of several grids at once, below their curves where they have some."""
        found = self.some(*names)
        parts = [self.draw(file, (curves, found))] if found and curves else []
        parts += [told(found)] if found else []
        return _joined(*parts, self.waits(*names))

    # -- blocks -----------------------------------------------------------------------------------

    def state(self) -> str:
        """How far each grid and search is."""
        heads = ["grid or search", "cells", "state", "hours of one process", "machine", "begun"]
        lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        lines += [f"| {' | '.join(self._state(each))} |" for each in ORDER]
        return "\n".join([*lines, "", *self._versions()])

    def _state(self, each: str) -> list[str]:
        kind, _, name = each.partition("/")
        link = f"[`{name}`](../benchmarks/{each}.yaml)"
        if name not in self.kept:
            return [link, "–", "not run yet", "–", "–", "–"]
        kept = self.kept[name]
        begun = str(kept.head["created"])[:10]
        if kind == "searches":
            tested = "tested" if kept.found["duels"] else "not tested yet"
            return [link, str(kept.found["trials"]["drawn"]), tested, "–", "–", begun]
        total, ran = len(kept.cells), kept.count("done")
        ended = ran + kept.count("failed", "skipped")
        state = "done" if ended == total else f"{ended} of {total}"
        if kept.count("failed"):
            state += f", {kept.count('failed')} failed"
        if kept.head["grid"] != short(_plain(HERE / f"{each}.yaml")):
            state += "; the grid or a preset has changed since"
        hours = sum(cell["seconds"] or 0.0 for cell in kept.cells) / 3600
        where = "; ".join(kept.head["machines"]) or "–"
        return [link, f"{ran} ran of {total}", state, f"{hours:.1f}", where, begun]

    def _versions(self) -> list[str]:
        """Versions of the runs, once each."""
        found = [
            version
            for kept in self.kept.values()
            for version in (
                kept.head["versions"]
                if isinstance(kept.head["versions"], list)
                else [kept.head["versions"]]
            )
        ]
        names = ("lightkv", "torch", "transformers")
        texts = {", ".join(f"{name} {each[name]}" for name in names) for each in found}
        return [f"Versions: {'; '.join(sorted(texts))}."] if texts else []

    def presets(self) -> str:
        """Every preset on each task."""
        names = [f"presets_{what}" for what in ("scenes", "pictures", "pairs", "clips")]
        parts = []
        for name in names:
            for kept in self.some(name):
                what = name.removeprefix("presets_")
                parts.append(f"### {what.capitalize()}")
                parts.append(self.draw(f"evidence-{what}", ("quality", kept)))
                parts.append(presets.presets(kept))
        return _joined(*parts, self.waits(*names))

    def parts(self) -> str:
        """The four parts at each ratio, and the ratio itself."""
        names = "parts_scenes", "parts_video"
        found = self.some(*names)
        parts = []
        if found:
            parts.append("**The ratio**, against ½ at the same retention, all parts as they are:")
            parts.append(effects.effects(found, "ratio", _setting(changed="nothing")))
            for ratio in ("0.5", "0.4", "0.3"):
                parts.append(f"**One part changed at ratio {ratio}**, against none:")
                parts.append(effects.effects(found, "changed", _setting(ratio=ratio)))
        return _joined(*parts, self.waits(*names))

    def stages(self) -> str:
        """Schedules: explicit depths and ratios, and the full sweep of ratios."""
        names = "stages_scenes", "stages_video"
        found = self.some(*names)
        parts = []
        if found:
            parts += ["**Against stages that remove half**, at the same retention:"]
            parts += [effects.effects(found, "stages")]
            parts += ["**Against the uncompressed model**, where retention is small:"]
            parts += [effects.levels(found, ("method", "stages"), ("0.2", "0.1"))]
        for kept in self.some("schedules"):
            parts += ["**LightKV at three ratios**, against the uncompressed model:"]
            parts += [effects.by_label(kept, "ratio")]
        chosen = "ratios_scenes", "ratios_video"
        found = self.some(*chosen)
        if found:
            parts += ["**What the default was chosen on**, scans that training saw, against ½:"]
            parts += [effects.effects(found, "ratio")]
        return _joined(*parts, self.waits(*names, "schedules", *chosen))

    def positions(self) -> str:
        """Positions of tokens that stand for several."""
        names = "positions_scenes", "positions_video"
        return self._together(names, lambda found: effects.effects(found, "positions"))

    def windows(self) -> str:
        """Windows over space and time."""
        found = self.some("windows_time")
        return _joined(
            *(effects.by_retention(kept, "windows") for kept in found), self.waits("windows_time")
        )

    def guidance(self) -> str:
        """Guidance and the frames since a digit was seen."""
        names = "guidance_time", "guidance_time_dropping"
        return self._together(names, guidance.guidance, "evidence-guidance", "fading")

    def tokens(self) -> str:
        """Achievable retention by size."""
        names = "tokens_pictures", "tokens_clips"
        return self._together(names, tokens.tokens, "evidence-tokens", "reach")

    def searches(self) -> str:
        """What was searched for."""
        names = [f"default_{what}" for what in ("scenes", "pictures", "clips")]
        parts = []
        for name in names:
            for kept in self.some(name):
                parts += [f"### {kept.head['study']['name'].capitalize()}", searches.search(kept)]
        return _joined(*parts, self.waits(*names))


BLOCKS = (
    "state", "presets", "parts", "stages", "positions", "windows", "guidance", "tokens", "searches",
)  # fmt: skip
"""Methods of `Evidence`; each stands between two marks of the page, in capitals."""


def mark_of(block: str) -> str:
    """What is between the arrows of the mark."""
    return f"EVIDENCE {block.upper()}"


def write(folder: Path, page: Path, draw: Draw) -> Evidence:
    """Fill all blocks of the page."""
    evidence = Evidence(folder, draw)
    for block in BLOCKS:
        fill(page, mark_of(block), getattr(evidence, block)())
    return evidence


def drawer(images: Path) -> Draw:
    """Saves figures of `evidence_page.curves` as SVG, in colours that follow the page's."""
    from evidence_page import curves
    from scheme import save

    def draw(name: str, what: tuple[str, Any]) -> str:
        kind, kept = what
        figure = getattr(curves, kind)(kept)
        figure.tight_layout()
        save(figure, images / f"{name}.svg")
        return f"![{SHOWN[kind]}](images/{name}.svg)"

    return draw


SHOWN = {
    "quality": "Right answers against achieved retention, by group of questions",
    "fading": "Gain of guidance by the frames since the digit was seen",
    "reach": "Retention that loses at most one point, by the number of vision tokens",
}
"""Function of `evidence_page.curves` → what its figure shows."""


def _setting(**labels: str) -> Callable[[dict[str, Any]], bool]:
    return lambda row: json.loads(row["setting"]) == labels


def _plain(path: Path) -> Any:
    """A grid as `study.py` keeps it."""
    return json.loads(json.dumps(Grid.read(path).plain()))


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kept", type=Path, default=KEPT)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    images = options.page.parent / "images"
    images.mkdir(exist_ok=True)
    found = write(options.kept, options.page, drawer(images))
    print(f"{len(found.kept)} of {len(NAMES)} grids and searches are in {options.page}")


if __name__ == "__main__":
    main()
