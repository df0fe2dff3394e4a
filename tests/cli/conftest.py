"""A small untrained checkpoint in place of the bundled one, and a way to call the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from lightkv.checkpoints import bundled as bundled_checkpoint
from lightkv.cli import app
from lightkv.demo.scenes import held_out_scenes
from training.architecture import make_model, make_processor


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """The demo's architecture with random weights, saved as any checkpoint is."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    make_model().save_pretrained(folder)
    make_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def bundled(checkpoint, monkeypatch) -> Path:
    """Makes the random checkpoint the bundled one, so that tests need no trained model."""
    monkeypatch.setitem(bundled_checkpoint.FOLDERS, "demo", checkpoint)
    return checkpoint


@pytest.fixture(scope="session")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    held_out_scenes(1)[0][0].image.save(path)
    return path


@pytest.fixture
def call() -> Callable[..., Result]:
    """Runs a command line; bugs surface as themselves and not as an exit code."""
    runner = CliRunner()

    def run(*args: object) -> Result:
        return runner.invoke(app, [str(arg) for arg in args], catch_exceptions=False)

    return run


@pytest.fixture
def ok(call) -> Callable[..., str]:
    """Runs a command line that must work; its standard output."""

    def run(*args: object) -> str:
        result = call(*args)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    return run


@pytest.fixture
def ok_json(ok) -> Callable[..., dict]:
    def run(*args: object) -> dict:
        return json.loads(ok(*args))

    return run


@pytest.fixture
def fails(call) -> Callable[..., str]:
    """Runs a command line that must fail as errors do: one line, exit code 2; that line."""

    def run(*args: object) -> str:
        result = call(*args)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("error: ")
        assert "Traceback" not in result.output
        return lines[0]

    return run
