"""Training's parts: packing equals asking alone, pointing leaves no trace, state resumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

from lightkv.demo.scenes import compose_scene, make_scene, prompt
from training import pointer, run, state
from training.architecture import VOCABULARY, make_model, make_processor
from training.packing import (
    NOWHERE,
    PREFIX_LENGTH,
    STARTS,
    TEXT_LENGTH,
    Batch,
    make_batch,
    packed_forward,
    packed_mask,
    packed_positions,
    question_words,
    questions_for,
)
from training.tower import normalise


@pytest.fixture(scope="module")
def untrained() -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    return make_model().eval()


def packed(seed: int, count: int) -> Batch:
    return make_batch(np.random.default_rng(seed), [count], "test")


def test_packed_logits_equal_those_of_each_question_alone(
    untrained: LlavaForConditionalGeneration,
) -> None:
    rng = np.random.default_rng(9)  # repeats what make_batch draws
    pixels, digits = compose_scene(rng, "test", 6)
    questions = questions_for(digits, rng)
    processor = make_processor()
    with torch.no_grad():
        hidden, _ = packed_forward(untrained, packed(9, 6), packed_mask(), packed_positions())
        together = untrained.lm_head(hidden)
        for start, question in zip(STARTS, questions, strict=False):
            assert question is not None
            text = f"{prompt(question.text)} {question.answer}"
            inputs = processor(images=Image.fromarray(pixels), text=text, return_tensors="pt")
            length = len(question_words(question)) + len(question.answer.split())
            alone = untrained(**inputs).logits[0, -length:]
            torch.testing.assert_close(
                together[0, start : start + length], alone, atol=2e-5, rtol=0
            )


def test_labels_spell_the_answers_and_pointers_point_at_digits() -> None:
    batch = packed(4, 5)
    marked = (batch.patches[0, :, 0] != 10).nonzero().flatten() + PREFIX_LENGTH
    targets = batch.pointers[0][batch.pointers[0] > 0]
    assert set(targets.tolist()) <= set(marked.tolist())
    spoken = [VOCABULARY[i] for i in batch.labels[0] if i >= 0]
    assert spoken.count("<eos>") == len(STARTS) - 1
    assert ((batch.pointers[0] != NOWHERE).any(-1) <= (batch.labels[0] >= 0)).all()
    assert batch.text.shape == (1, TEXT_LENGTH)


def test_normalise_is_what_the_processor_does() -> None:
    image = make_scene(np.random.default_rng(1)).image
    processed = make_processor().image_processor(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(processed, normalise(np.array(image)[None]), atol=1e-6, rtol=0)


def test_pointing_changes_no_output_and_restores_the_config(
    untrained: LlavaForConditionalGeneration,
) -> None:
    batch, mask, positions = packed(2, 4), packed_mask(), packed_positions()
    decoder = untrained.model.language_model
    before = decoder.config._attn_implementation
    with torch.no_grad():
        plain, _ = packed_forward(untrained, batch, mask, positions)
        with pointer.pointing(decoder) as captured:
            watched, _ = packed_forward(untrained, batch, mask, positions)
            loss = pointer.pointer_loss(captured, batch, mask)
    assert torch.equal(plain, watched)
    assert decoder.config._attn_implementation == before
    assert 0 < loss.item() < 20


def test_state_resumes_parameters_moments_and_progress(tmp_path: Path) -> None:
    def fresh(seed: int) -> tuple[torch.nn.Linear, list[torch.optim.Optimizer]]:
        torch.manual_seed(seed)
        layer = torch.nn.Linear(3, 2)
        return layer, [run.muon([layer.weight], 0.02), run.adamw([layer.bias], 0.02)]

    def step(layer: torch.nn.Linear, optimizers: list[torch.optim.Optimizer]) -> None:
        layer.zero_grad()
        layer(torch.tensor([[1.0, 2.0, -1.0]])).square().sum().backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.1
            optimizer.step()

    layer, optimizers = fresh(0)
    step(layer, optimizers)
    state.save_state(tmp_path, {"layer": layer}, optimizers, {"updates": 1})
    other, others = fresh(1)
    assert state.load_state(tmp_path, {"layer": other}, others) == {"updates": 1}
    step(layer, optimizers)
    step(other, others)
    assert torch.equal(layer.weight, other.weight)
    assert torch.equal(layer.bias, other.bias)
    assert {path.name for path in tmp_path.iterdir()} == {"state.safetensors", "state.json"}
