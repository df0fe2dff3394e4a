"""The second bundled checkpoint: loads as any other, is small, can do its task, and notices eviction."""

from __future__ import annotations

import json
from statistics import mean

import pytest
import torch
from transformers import AutoModelForImageTextToText, Qwen2_5_VLForConditionalGeneration

from lightkv.checkpoints.bundled import VIDEO, checkpoint_path
from lightkv.demo.model import load
from lightkv.lab import Subject, build_task
from lightkv.lab.grids.cells import probe_of

SAMPLES = {"pictures": 16, "pairs": 24, "clips": 10}
FLOOR = {"pictures": 0.8, "pairs": 0.85, "clips": 0.8}
"""Of all questions of a task together; the model card has the accuracies of many samples."""


@pytest.fixture(scope="module")
def subject():
    return Subject(*load("video"))


def test_checkpoint_is_small_and_plain():
    files = list(checkpoint_path(VIDEO).iterdir())
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".jinja", ".md"}
    config = (checkpoint_path(VIDEO) / "config.json").read_text()
    assert "lightkv" not in config
    assert json.loads(config)["dtype"] == "float32"


def test_auto_class_loads_it():
    model = AutoModelForImageTextToText.from_pretrained(checkpoint_path(VIDEO))
    assert isinstance(model, Qwen2_5_VLForConditionalGeneration)
    assert model.dtype == torch.float32
    assert model.config.text_config.num_hidden_layers == 12


@pytest.mark.parametrize("name", SAMPLES)
def test_accuracy_stands_above_a_floor_and_random_eviction_below(subject, name):
    task = build_task({"name": name, name: SAMPLES[name], "seed": 21})
    samples = task.samples()
    probe = probe_of(samples)

    def score(pipeline, retention):
        with subject.compressed(pipeline, retention, probe=probe):
            return mean(one.score for one in task.evaluate(subject, samples))

    vanilla = score(None, None)
    assert vanilla > FLOOR[name]
    assert score("random", 0.35) < vanilla - 0.05
