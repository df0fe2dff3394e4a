"""`lightkv.lab.show` from Python: what it accepts, and mistakes told before a model runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import lightkv.lab
from lightkv.core.errors import ConfigError, LightKVError
from training.architecture import make_model, make_processor

PICTURE = Image.new("RGB", (96, 96), (40, 40, 40))


def test_single_pictures_and_paths_need_no_list(tmp_path):
    path, out = tmp_path / "scene.png", tmp_path / "out.html"
    PICTURE.save(path)
    parts = {"processor": make_processor(), "max_new_tokens": 1}
    for image in (PICTURE, path, str(path), iter([PICTURE])):
        picture = lightkv.lab.show(make_model(), image, ["a"], out=out, **parts)
        assert len(picture.views) == 1
        assert out.is_file()
        out.unlink()
    assert lightkv.lab.show(make_model(), PICTURE, ["a"], out=[str(out)], **parts).count == 144
    assert out.is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "no picture"),
        ({"images": 5}, "not a picture"),
        ({"images": [np.zeros((4, 4, 3))]}, "not a picture.*fromarray"),
        ({"images": [Image.new("RGB", (0, 5))]}, "without pixels"),
        ({"images": [Image.new("F", (5, 5))]}, "32-bit"),
        ({"prompts": [None]}, "^prompt"),
        ({"prompts": None}, "^prompt.*list"),
        ({"prompts": {"a": 1}}, "^prompt.*list"),
        ({"strategies": "lightkv"}, "^strategy.*list"),
        ({"strategies": 3}, "^strategy = 3.*list"),
        ({"strategies": [None]}, "pipeline"),
        ({"out": None}, "^out"),
        ({"out": [3]}, "^out = 3"),
        ({"out": ["a\0.png"]}, "^out.*not the name"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"max_new_tokens": 1.5}, "whole number"),
        ({"max_new_tokens": True}, "whole number"),
        ({"max_new_tokens": None}, "whole number"),
        ({"dtype": torch.float32}, "^dtype.*bfloat16"),
        ({"dtype": None}, "^dtype"),
    ],
)
def test_mistakes_are_typed(changes, message):
    arguments = {"images": [PICTURE], "prompts": ["a"], **changes}
    with pytest.raises(ConfigError, match=message):
        lightkv.lab.show("no such model", **arguments)


@pytest.mark.parametrize(
    ("images", "prompts", "strategies", "match"),
    [
        ([], ["a", "b"], ["lightkv"], "no picture"),
        ([0], [], ["lightkv"], "prompt"),
        ([0], ["a", "b", "c"], ["lightkv"], "prompt"),
        ([0], ["a", "b"], ["a", "b", "c"], "strategy"),
        ([0], "what is this", ["lightkv"], "list"),
    ],
)
def test_too_few_and_too_many(images, prompts, strategies, match):
    with pytest.raises(ConfigError, match=match):
        lightkv_show(images, prompts, strategies)


def lightkv_show(images, prompts, strategies, **options):
    return lightkv.lab.show("demo", images, prompts, strategies, **options)


def test_files_are_checked_before_a_model_is_loaded(tmp_path):
    for path, match in (
        (tmp_path / "a.gif", r"\.png or \.html"),
        (tmp_path / "none" / "a.png", "folder"),
    ):
        with pytest.raises(ConfigError, match=match):
            lightkv_show(["no such picture.png"], ["a"], ["lightkv"], out=[path])
    with pytest.raises(ConfigError, match="no such file"):
        lightkv_show([tmp_path / "none.png"], ["a"], ["lightkv"])
    with pytest.raises(LightKVError, match="Did you mean 'lightkv'"):
        lightkv_show([tmp_path / "none.png"], ["a"], ["lightvk"])
    picture, link = tmp_path / "scene.png", tmp_path / "link.png"
    PICTURE.save(picture)
    link.symlink_to(picture)
    before = picture.read_bytes()
    for out in (picture, tmp_path / "." / "scene.png", link):
        with pytest.raises(ConfigError, match="would overwrite the picture"):
            lightkv.lab.show(None, [PICTURE, str(picture)], ["a"], out=["a.html", out])
    assert picture.read_bytes() == before
    model = make_model()
    with pytest.raises(ConfigError, match="processor"):
        lightkv.lab.show(model, [PICTURE], ["a"])
    picture = lightkv.lab.show(model, [PICTURE], ["a"], processor=make_processor())
    assert picture.model == "LlavaForConditionalGeneration"
