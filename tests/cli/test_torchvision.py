"""Checkpoints of models that take clips, where torchvision is missing or does not fit torch."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from lightkv.checkpoints.library_errors import brief, import_problem
from lightkv.checkpoints.load import load_model
from lightkv.checkpoints.pictures import open_image
from lightkv.checkpoints.processors import without_clips
from lightkv.checkpoints.prompts import build_inputs
from lightkv.core.errors import ModelError
from training.video.architecture import make_model, save_processor

ASK = ("--prompt", "what digit is red ?", "--max-new-tokens", 2)

missing = pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is there")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A Qwen2.5-VL with random weights, saved as any checkpoint is."""
    made = tmp_path_factory.mktemp("clips")
    torch.manual_seed(0)
    make_model(4).save_pretrained(made)
    save_processor(made)
    return made


@missing
def test_pictures_need_no_torchvision(folder, picture, ok_json):
    data = ok_json("run", "--model", folder, "--image", picture, *ASK, "--json")
    assert data["report"]["retention"] == pytest.approx(0.55, abs=0.1)


@missing
def test_pictures_become_what_the_bundled_processor_makes(folder, picture):
    from lightkv.checkpoints.clip_processor import load_processor

    model, processor = load_model(str(folder), "auto", "cpu")
    assert without_clips(processor)
    for pictures in ([], [open_image(picture)], [open_image(picture)] * 2):
        found, wanted = (
            build_inputs(each, "what digit is red ?", pictures, model)
            for each in (processor, load_processor(folder))
        )
        assert {*found} == {*wanted}
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@missing
def test_clips_name_what_to_install(folder):
    model, processor = load_model(str(folder), "auto", "cpu")
    clip = np.zeros((4, 48, 48, 3), dtype=np.uint8)
    with pytest.raises(ModelError, match="pip install torchvision") as caught:
        build_inputs(processor, "what ?", [], model, [clip])
    assert caught.value.field == "--video"
    assert version("torch") in caught.value.remedy


def test_a_torchvision_that_does_not_fit_is_named(folder, picture, tmp_path):
    """Nothing is said against the checkpoint, and the error of the import is passed on."""
    there = tmp_path / "torchvision"
    there.mkdir()
    (there / "__init__.py").write_text("raise RuntimeError('no operator torchvision::nms')\n")
    facts = tmp_path / "torchvision-0.1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1.0\n")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-m", "lightkv", "run", "--model", folder, "--image", picture, *ASK]
    done = subprocess.run(
        [*map(str, command)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "no operator torchvision::nms" in line
    assert "pip install torchvision" in line
    assert "in place of 0.1.0" in line
    assert "vision-language" not in line


def test_other_packages_and_other_errors():
    assert import_problem(ValueError("torchvision"), "--model") is None
    below = ModuleNotFoundError("No module named 'timm'")
    above = ImportError("Could not import module 'TimmModel'")
    above.__cause__ = below
    told = import_problem(above, "--model", "x")
    assert told is not None
    assert brief(below) in str(told)
    assert "torchvision" not in str(told)
    assert "install the package" in str(told)
