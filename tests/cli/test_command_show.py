"""`lightkv show`: what it writes and prints, and everything that can be wrong with its arguments."""

from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image

from lightkv.core.pipeline.pipeline import get_preset

SHORT = ("--max-new-tokens", 2)
ASK = ("--prompt", "list all digits")


def test_png_and_page_of_two_prompts(ok, bundled, picture, tmp_path):
    png, page = tmp_path / "a.png", tmp_path / "a.HTML"
    text = ok(
        *("show", "--image", picture, *ASK, "--prompt", "what digit is red ?", *SHORT),
        *("--retention", 0.5, "--out", png, "--out", page),
    )
    assert f"wrote {png}".split("/")[-1] in text
    assert "lightkv · list all digits · " in text
    assert "lightkv · what digit is red ? · " in text
    assert "144 tokens, after layer" in text
    with Image.open(png) as image:
        assert image.format == "PNG"
        image.load()
    assert page.read_text().startswith("<!doctype html>")


def test_a_scene_two_strategies_and_the_default_file(ok_json, bundled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(get_preset("fastv").to_yaml())
    data = ok_json(
        *("show", "--scene", 1, *ASK, *SHORT, "--strategy", "tome", "--strategy", "mine.yaml"),
        "--json",
    )
    assert [run["strategy"] for run in data["runs"]] == ["tome", "fastv"]
    assert data["written"] == ["show.html"]
    assert (tmp_path / "show.html").is_file()


def test_single_values_of_both_strategies(ok_json, fails, bundled, tmp_path):
    args = ("show", "--scene", 0, "--prompt", "what digit is red ?", "--max-new-tokens", 2)
    args += ("--out", tmp_path / "x.png", "--strategy", "lightkv", "--strategy", "tome", "--json")
    found = ok_json(*args, "--set", "schedule.retention=0.4", "--set", "name=both")
    assert [run["strategy"] for run in found["runs"]] == ["both", "both"]
    assert all(run["retention"] == pytest.approx(0.4, abs=0.03) for run in found["runs"])
    assert "Did you mean 'matcher'" in fails(*args, "--set", "mather=top-k")


def test_a_scene_without_a_question_names_some(fails):
    text = fails("show", "--scene", 0)
    assert '--prompt "list all digits"' in text


def bomb(path, side):
    """A PNG that says it has side² pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_pictures_that_cannot_be_read(fails, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    assert "no such file" in fails("show", "--image", tmp_path / "none.png", *ASK)
    assert "not a picture" in fails("show", "--image", tmp_path / "text.png", *ASK)
    assert "it is a folder" in fails("show", "--image", tmp_path, *ASK)
    assert "more pixels" in fails("show", "--image", bomb(tmp_path / "b.png", 50_000), *ASK)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--scene", 0, *ASK, *ASK, *ASK), "prompt = 3"),
        (("--scene", 0, *ASK, *(("--strategy", "tome") * 3)), "strategy = 3"),
        (("--scene", 0, *ASK, "--out", "a.gif"), "end the name in .png or .html"),
        (("--scene", 0, *ASK, "--out", "none/a.png"), "folder does not exist"),
        (("--scene", 1000, *ASK), "from 0 to 999"),
        (("--scene", -1, *ASK), "from 0 to 999"),
        (ASK, "there is no picture"),
        (("--scene", 0, "--image", "a.png", *ASK), "not both"),
        (("--scene", 0, *ASK, "--max-new-tokens", 0), "at least 1"),
        (("--scene", 0, *ASK, "--strategy", "tom"), "Did you mean 'tome'"),
        (("--scene", 0, *ASK, "--dtype", "int3"), "not a dtype"),
        (("--scene", 0, *ASK, "--device", "tpu:9"), "device cannot be used"),
        (("--scene", 0, *ASK, "--model", "./none"), "no such directory"),
        (("--scene", 0, *ASK, "--retention", 0), "retention"),
    ],
)
def test_mistakes(fails, bundled, arguments, words):
    assert words in fails("show", *arguments)


def test_a_model_without_pictures(fails, tmp_path):
    from transformers import LlamaConfig

    LlamaConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "processor_config.json").write_text("{}")
    assert "image-text" in fails("show", "--model", tmp_path, "--scene", 0, *ASK)


def test_a_file_that_cannot_be_written(fails, bundled, tmp_path):
    folder = tmp_path / "a.png"
    folder.mkdir()
    assert "is a directory" in fails("show", "--scene", 0, *ASK, *SHORT, "--out", folder)


def test_a_clip_without_a_question_names_some(fails):
    assert '--prompt "what digit came last ?"' in fails("show", "--clip", 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--clip", 0, "--scene", 0), "--clip = 0"),
        (("--clip", 0, "--video", "a.gif"), "leave one of --clip and --video out"),
        (("--clip", 1000), "from 0 to 999"),
        (("--video", "none"), "no such file"),
        (("--clip", 0), "takes no clips"),
    ],
)
def test_mistakes_with_clips(fails, bundled, arguments, words):
    assert words in fails("show", *arguments, *ASK)
