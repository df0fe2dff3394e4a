"""All strategies: where they act, their parts, and how far they are from an independent reference.

    python benchmarks/strategy_table.py [--write docs/strategies.md]

The parts are the presets' own. The difference is the largest absolute one between a method and its slow
reference in tests/strategies (the same tokens survive everywhere), or the authors' golden vectors; all
switches of a method count. What the published code can do (batches, FlashAttention in the decoder) is
from the papers' repositories, see the sections below the table.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import torch

from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.core.plugins import registry

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("", "core", "strategies", "golden")
sys.path[:0] = [str(ROOT / "tests" / folder) for folder in FOLDERS]
MARK = "<!-- TABLE -->"
SEEDS = 5
PUBLISHED: dict[str, tuple[str, str]] = {
    "lightkv": ("no", "no"),
    "lightkv-release": ("no", "no"),
    "lightkv-plus": ("–", "–"),
    "lightkv-lean": ("–", "–"),
    "fastv": ("no", "no"),
    "tome": ("no code", "no code"),
    "pitome": ("yes (ViT)", "n/a (ViT)"),
    "tofu": ("yes (ViT)", "n/a (ViT)"),
    "pyramiddrop": ("right padding", "yes"),
    "sparsevlm": ("no", "claimed"),
    "dart": ("no", "yes"),
    "hired": ("NeXT yes, 1.5 no", "yes"),
    "visionzip": ("equal images", "yes"),
    "prumerge": ("no", "yes"),
    "prumerge-plus": ("no", "yes"),
    "divprune": ("no", "yes"),
    "vispruner": ("no", "yes"),
    "fastervlm": ("yes", "yes"),
    "evs": ("yes", "yes"),
    "dycoke": ("no", "yes"),
    "fastvid": ("no", "yes"),
    "framefusion": ("no", "yes"),
    "holitom": ("no", "yes"),
    "cdpruner": ("no", "yes"),
    "hiprune": ("no", "yes"),
    "vscan": ("no", "yes"),
    "autoprune": ("no", "no"),
    "rand": ("no code", "no code"),
    "imgrand": ("no code", "no code"),
    "tome-cache": ("no code", "no code"),
    "elastic-cache": ("no", "no"),
    "random": ("–", "–"),
}
"""Preset → batches of several rows, FlashAttention in the decoder, as published."""
OTHER = {
    "lightkv-plus": ("guided", "guided, split by importance"),
    "lightkv-lean": ("divprune, the rest joins",),
}
"""References under another name than the preset's."""


def part(spec: Any) -> str:
    """A component as one word and its parameters."""
    if spec is None:
        return "–"
    if isinstance(spec, str):
        return spec
    rest = ", ".join(f"{k}: {v}" for k, v in spec.items() if k != "name")
    return f"{spec['name']} ({rest})" if rest else str(spec["name"])


def site(spec: PipelineSpec) -> str:
    """Where the preset acts, and when."""
    recipe = spec.schedule
    assert isinstance(recipe, Recipe)
    if recipe.site == "cache":
        return "cache" + (", with text" if recipe.scope == "all" else "")
    if recipe.after_layer == 0:
        return "before the decoder"
    if recipe.after_layer is not None:
        return f"after layer {recipe.after_layer}"
    if recipe.depths is not None:
        return "after " + ", ".join(f"{depth:.3g}" for depth in recipe.depths) + " of the depth"
    return f"between layers, {len(recipe.windows)} stages"


def differences() -> dict[str, float]:
    """Largest difference of each method's references."""
    import references
    import references_cache
    import references_encoder
    import references_frames
    import references_pictures
    import test_golden
    import test_stage_reference as stage

    found: dict[str, float] = {}
    for name, run in references.DIFFERENCES.items():
        note(found, name, run())
    for name, of_seed in references_encoder.REFERENCES.items():
        for seed in range(SEEDS):
            note(found, name, of_seed(seed))
    for name, of_seed in references_frames.REFERENCES.items():
        for seed in range(SEEDS):
            note(found, name, of_seed(seed))
    for name, of_seed in references_pictures.REFERENCES.items():
        for seed in range(SEEDS):
            note(found, name, of_seed(seed))
    for name, of_seed in references_cache.REFERENCES.items():
        for seed in range(SEEDS):
            note(found, name, of_seed(seed))
    for case in test_golden.RELEASE:
        data, result = test_golden.run_release(case)
        note(found, "lightkv-release", (result.hidden_states - data["out"]).abs().max())
    for name, of_seed in stage.REFERENCES.items():
        for seed in range(SEEDS):
            note(found, name, of_seed(seed))
    return found


def note(found: dict[str, float], name: str, difference: Any) -> None:
    """Keep the largest difference under the method's own name (what stands before a comma)."""
    for key in {name, name.split(",")[0]}:
        found[key] = max(found.get(key, 0.0), float(difference))


def rows(found: dict[str, float]) -> list[str]:
    """The table in Markdown."""
    lines = [
        "| preset | site | partitioner | scorer | matcher | aggregator | positions | retention | "
        "largest difference | batches: here / published | FlashAttention: here / published |",
        "|" + "---|" * 11,
    ]
    for name, entry in sorted(registry().presets.items()):
        if entry.package != "lightkv":
            continue
        spec = entry.value
        figure = max(found.get(key, math.nan) for key in OTHER.get(name, (name,)))
        batch, flash = PUBLISHED.get(name, ("–", "–"))
        parts = [part(p) for p in (spec.partitioner, spec.scorer, spec.matcher, spec.aggregator)]
        assert isinstance(spec.schedule, Recipe)
        lines.append(
            f"| `{name}` | {site(spec)} | {' | '.join(parts)} | {part(spec.positions)} | "
            f"{spec.schedule.retention:.3g} | {figure:.1e} | yes / {batch} | yes / {flash} |"
        )
    return lines


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, help="Markdown file to put the table into")
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = "\n".join(rows(differences()))
    print(text)
    if options.write:
        before, _, after = options.write.read_text().split(MARK)
        options.write.write_text(f"{before}{MARK}\n{text}\n{MARK}{after}")


if __name__ == "__main__":
    main()
