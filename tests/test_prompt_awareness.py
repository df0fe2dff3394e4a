"""What LightKV sees of the question: weights, not the first matching; with uniform scores nothing."""

from __future__ import annotations

import pytest
import torch

import lightkv
from lightkv.demo.model import load
from lightkv.demo.scenes import Scene, held_out_scenes, prompt


@pytest.fixture(scope="module")
def demo():
    return load()


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene for scene, _ in held_out_scenes(30, seed=5) if len(scene.digits) >= 2][:6]


def _assignments(demo, scenes: list[Scene], scorer: str) -> list[list[lightkv.RunReport]]:
    """For each scene the reports of two questions about different digits."""
    model, processor = demo
    pairs = []
    with lightkv.compress(model, "lightkv", retention=0.35, scorer=scorer, trace=True) as run:
        for scene in scenes:
            for digit in scene.digits[:2]:
                text = prompt(f"what digit is {digit.color} ?")
                inputs = processor(images=scene.image, text=text, return_tensors="pt")
                with torch.no_grad():
                    model(**inputs)
            pairs.append(run.reports[-2:])
    return pairs


def test_uniform_scores_do_not_see_the_question(demo, scenes) -> None:
    for one, other in _assignments(demo, scenes, "uniform"):
        first, second = one.provenance(), other.provenance()
        assert torch.equal(first.slot, second.slot)
        assert torch.equal(first.weight, second.weight)


def test_prompt_guidance_changes_weights_but_not_the_first_matching(demo, scenes) -> None:
    differences = []
    for one, other in _assignments(demo, scenes, "prompt-attention"):
        assert torch.equal(one.trace[0].slot, other.trace[0].slot)
        differences.append((one.trace[0].weight - other.trace[0].weight).abs().max().item())
    assert min(differences) > 1e-4
