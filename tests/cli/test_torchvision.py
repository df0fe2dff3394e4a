"""Checkpoints of models that take clips, where torchvision is missing or does not fit torch."""

from __future__ import annotations

import importlib
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


NO_OPERATOR = "RuntimeError('no operator torchvision::nms')"
NO_SYMBOL = "ImportError('undefined symbol: _ZN3c10')"


def with_torchvision(
    tmp_path: Path, raised: str, *command: object
) -> subprocess.CompletedProcess[str]:
    """A Python process with a torchvision 0.1.0 whose import raises something."""
    there = tmp_path / "torchvision"
    there.mkdir()
    (there / "__init__.py").write_text(f"raise {raised}\n")
    facts = tmp_path / "torchvision-0.1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1.0\n")
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("raised", [NO_OPERATOR, NO_SYMBOL])
@pytest.mark.parametrize("command", ["run", "demo", "models"])
def test_a_torchvision_that_does_not_fit_is_named(folder, picture, tmp_path, command, raised):
    """Nothing is said against the checkpoint, and the error of the import is passed on."""
    given = ("--model", folder, "--image", picture, *ASK) if command == "run" else ()
    done = with_torchvision(tmp_path, raised, "-m", "lightkv", command, *given)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "torchvision cannot be imported" in line
    assert raised.split("'")[1] in line
    assert "pip install torchvision" in line
    assert f"torch {version('torch')}" in line
    assert "in place of 0.1.0" in line
    assert "vision-language" not in line


def test_it_is_named_in_python_too(tmp_path):
    asked = "from lightkv.demo import load\nload()"
    done = with_torchvision(tmp_path, NO_OPERATOR, "-c", asked)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("lightkv.core.errors.ModelError: ")
    assert "torchvision cannot be imported" in last
    assert "in place of 0.1.0" in last


def imported(name: str) -> BaseException:
    """What an import raises, as a loader of checkpoints catches it."""
    try:
        importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - any kind is what is asked for
        return error
    raise AssertionError(name)


@pytest.mark.parametrize("kind", ["RuntimeError", "ValueError", "AttributeError", "OSError"])
def test_whatever_a_package_raises_it_is_named(tmp_path, monkeypatch, kind):
    """By the innermost module that was being imported, not the one that wanted it."""
    monkeypatch.syspath_prepend(tmp_path)
    inner = f"inner_{kind.lower()}"
    (tmp_path / f"outer_{kind.lower()}.py").write_text(f"import {inner}.part\n")
    (tmp_path / inner).mkdir()
    (tmp_path / inner / "__init__.py").write_text("")
    (tmp_path / inner / "part.py").write_text(
        f"def check():\n    raise {kind}('size changed. See the manual')\n\n\ncheck()\n"
    )
    told = import_problem(imported(f"outer_{kind.lower()}"))
    assert isinstance(told, ModelError)
    assert str(told) == f"{inner} cannot be imported (size changed). install {inner}."


def test_a_package_that_is_there_is_told_by_the_name_it_is_installed_under():
    gone = ImportError("cannot import name 'gone' from 'PIL.Image'", name="PIL.Image")
    told = str(import_problem(gone))
    assert "PIL cannot be imported (cannot import name 'gone'" in told
    assert f"another version of pillow than {version('pillow')}" in told


def test_what_is_wrong_in_lightkv_itself_keeps_its_traceback():
    wrong = imported("lightkv.core.nonsense")
    assert isinstance(wrong, ImportError)
    assert import_problem(wrong) is None


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
