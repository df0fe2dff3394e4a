"""The bundled checkpoint: loads as any other, is small, and can do its task."""

from __future__ import annotations

import json

import pytest
import torch
from scores import evaluate
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    ProcessorMixin,
)

from lightkv.checkpoints.bundled import checkpoint_path
from lightkv.demo.asking import answer
from lightkv.demo.model import load
from lightkv.demo.scenes import held_out_scenes, prompt

FLOORS = {
    "color_to_digit": 0.85,
    "digit_to_color": 0.85,
    "exists": 0.85,
    "count": 0.85,
    "spatial": 0.7,
    "list": 0.75,
}


@pytest.fixture(scope="module")
def demo() -> tuple[PreTrainedModel, ProcessorMixin]:
    return load()


def test_checkpoint_is_small_and_plain() -> None:
    files = list(checkpoint_path().iterdir())
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".jinja", ".md"}
    config = (checkpoint_path() / "config.json").read_text()
    assert "lightkv" not in config
    assert json.loads(config)["dtype"] == "float32"


def test_auto_classes_load_it() -> None:
    model = AutoModelForImageTextToText.from_pretrained(checkpoint_path())
    processor = AutoProcessor.from_pretrained(checkpoint_path())
    assert isinstance(model, LlavaForConditionalGeneration)
    assert model.dtype == torch.float32
    assert model.config.text_config.num_hidden_layers == 12
    scene = held_out_scenes(1)[0][0]
    inputs = processor(images=scene.image, text=prompt("list all digits"), return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 144
    assert inputs["pixel_values"].shape == (1, 3, 96, 96)


def test_chat_template_gives_the_prompt(demo: tuple[PreTrainedModel, ProcessorMixin]) -> None:
    processor = demo[1]
    scene = held_out_scenes(1)[0][0]
    content = [
        {"type": "image", "image": scene.image},
        {"type": "text", "text": "what digit is red ?"},
    ]
    chat = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text == prompt("what digit is red ?")
    tokens = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    inputs = processor(images=scene.image, text=text, return_tensors="pt")
    assert torch.equal(tokens["input_ids"], inputs["input_ids"])
    assert torch.equal(tokens["pixel_values"], inputs["pixel_values"])


def test_batch_answers_as_single(demo: tuple[PreTrainedModel, ProcessorMixin]) -> None:
    samples = held_out_scenes(6, seed=5)
    scenes = [scene for scene, _ in samples]
    questions = [asked[index % 4] for index, (_, asked) in enumerate(samples)]
    together = answer(*demo, scenes, questions)
    alone = [answer(*demo, [s], [q])[0] for s, q in zip(scenes, questions, strict=True)]
    assert together == alone


def test_accuracy_stands_above_a_floor(demo: tuple[PreTrainedModel, ProcessorMixin]) -> None:
    seen: list[tuple[int, int]] = []
    samples = held_out_scenes(40, seed=21)
    result = evaluate(*demo, samples, progress=lambda *at: seen.append(at))
    assert set(result) == set(FLOORS)
    assert {kind: value for kind, value in result.items() if value < FLOORS[kind]} == {}
    assert seen[-1][0] == seen[-1][1] == sum(len(questions) for _, questions in samples)
