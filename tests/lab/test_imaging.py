"""Pictures reach the model as they look, whatever command or task opens them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lightkv.checkpoints.pictures import open_image, rgb
from lightkv.core.errors import LightKVError
from lightkv.integrations.lmms_eval.prompts import picture
from lightkv.lab.tasks import build_task
from lightkv.lab.tasks.files import open_picture

OPENERS = [
    open_image,
    open_picture,
    lambda path: picture(str(path)),
    lambda path: picture(opened(path)),
]


def opened(path):
    image = Image.open(path)
    image.load()
    return image


@pytest.fixture(params=OPENERS, ids=["run and show", "tasks", "lmms path", "lmms picture"])
def opener(request):
    return request.param


def test_pictures_stand_upright(opener, tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, :, 0] = 200  # red above
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: turn by 90° clockwise
    path = tmp_path / "camera.png"
    Image.fromarray(pixels).save(path, exif=exif)
    found = np.asarray(opener(path))
    assert found.shape == (6, 4, 3)
    assert (found[:, -1, 0] == 200).all()
    assert found.sum() == pixels.sum()


def test_broken_orientation_is_left_out(opener, tmp_path):
    path = tmp_path / "broken.png"
    Image.new("RGB", (6, 4), (1, 2, 3)).save(path, exif=b"Exif\x00\x00no exif at all")
    assert opener(path).size == (6, 4)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_16_bits_keeps_its_shades(opener, tmp_path, suffix):
    shades = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    path = tmp_path / f"depth.{suffix}"
    Image.fromarray(shades).save(path)
    found = np.asarray(opener(path))
    assert (found == np.arange(256).reshape(16, 16, 1)).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_white_are_refused(opener, tmp_path, mode):
    path = tmp_path / "numbers.tif"
    Image.new(mode, (4, 4), 70_000).save(path)
    with pytest.raises(LightKVError, match=r"32-bit .*8 or 16 bits"):
        opener(path)


def test_other_modes():
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK"):
        assert rgb(Image.new(mode, (3, 2))).mode == "RGB"


def test_tasks_refuse_them_before_a_model_is_loaded(tmp_path):
    Image.new("F", (4, 4), 0.5).save(tmp_path / "numbers.tif")
    with pytest.raises(LightKVError, match=r"folder .*32-bit decimal.*") as caught:
        build_task({"name": "files", "path": str(tmp_path), "question": "?"}).samples()
    assert "numbers.tif" in str(caught.value)
