"""The gallery: its page, its files, and what draws them."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from synthetic_study import study, write

from lightkv.checkpoints.bundled import FOLDERS, VIDEO
from lightkv.lab import export
from lightkv.lab.pictures import Picture, ShownRun, ShownStage, ShownView

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
FOLDER = ROOT / "docs" / "images" / "gallery"
PICTURE = re.compile(r"!\[(.+)\]\(images/gallery/(.+)\)\n\n((?:.+\n)+)\n\*(.+(?:\n.+)*)")
SMALL = {"method": {"lightkv": 0.0, "fastv": -0.2, "visionzip": -0.4}}


@pytest.fixture
def gallery(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return __import__("gallery")


def test_each_picture_has_its_words_and_its_command(gallery):
    found = PICTURE.findall(re.sub(r"<!--.*?-->", "", PAGE, flags=re.S))
    files = sorted(path.name for path in FOLDER.iterdir())
    assert sorted(name for _, name, _, _ in found) == files
    for alt, name, caption, measured in found:
        assert len(alt) > 60
        assert caption.count(". ") <= 3
        assert (
            f"python benchmarks/gallery.py {name.partition('.')[0].partition('-')[0]}" in measured
        )
    assert sum((FOLDER / name).stat().st_size for name in files) < 1_500_000
    for name in files:
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "prefers-color-scheme: dark" in text


def test_the_clip_is_shown_as_soon_as_there_is_a_model_for_it():
    hidden = "<!-- clip:" in PAGE
    bundled = (FOLDERS[VIDEO] / "config.json").is_file()
    assert hidden != bundled, (
        "docs/gallery.md: draw the clip with `python benchmarks/gallery.py clip`, look at it, and take "
        "its section out of the comments"
    )


def test_cells_of_an_export_are_drawn(gallery, tmp_path):
    source = tmp_path / "presets_small.csv"
    stored = write(tmp_path / "small.sqlite", *study(clusters=4, retentions=(0.5, 0.2), axes=SMALL))
    export(stored, source)
    found = gallery.Curves.read(source)
    assert set(found.methods) <= set(SMALL["method"])
    assert all((np.diff(points[:, 0]) > 0).all() for points in found.methods.values())
    assert all((points[:, 2] <= points[:, 1]).all() for points in found.methods.values())
    assert 0 < found.vanilla <= 100
    for _ in range(2):
        drawn = dict(gallery.draw(["curves", "presets"], [source], tmp_path))
        assert [path.name for path in drawn] == ["curves-small.svg", "presets-small.svg"]
        texts = [path.read_bytes() for path in drawn]
        assert list(drawn.values()) == [len(text) for text in texts]
    gallery.curves(tmp_path / "again.svg", found)
    assert (tmp_path / "again.svg").read_bytes() == texts[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace("factor_method", "factor_other"), "axis `method`"),
        (
            lambda text: text.replace('""scenes"": 1000', '""scenes"": 9', 1),
            "several models or tasks",
        ),
        (
            lambda text: text.replace("vanilla,vanilla,done", "vanilla,vanilla,failed"),
            "uncompressed",
        ),
    ],
)
def test_other_cells_are_refused(gallery, tmp_path, change, told):
    text = (ROOT / "benchmarks" / "results" / "presets_scenes.csv").read_text(encoding="utf-8")
    (tmp_path / "cells.csv").write_text(change(text), encoding="utf-8")
    with pytest.raises(SystemExit, match=told):
        gallery.Curves.read(tmp_path / "cells.csv")


def frames(count: int) -> list[ShownView]:
    pixels = Image.new("RGB", (16, 16))
    numbers = np.arange(4 * count).reshape(count, 2, 2)
    return [
        ShownView(f"clip 1, frame {n + 1}", numbers[n], pixels, "stretched", clip=0)
        for n in range(count)
    ]


def stage(home: list[int]) -> ShownStage:
    found = np.array(home)
    left = len({h for h in home if h >= 0})
    return ShownStage("after layer 1", 1, "layers", found, found * 0.0 + 1, None, left, found.size)


def test_frames_stand_side_by_side(gallery, tmp_path):
    over_time = ShownRun("?", "1", "evs", 0.5, (4,), (stage([0, 1, 2, 3] * 2),))
    size = gallery.clip_sheet(Picture("a", tuple(frames(2)), (over_time,), 8), tmp_path / "c.svg")
    text = (tmp_path / "c.svg").read_text()
    assert text.count("<image ") == 4  # two frames, of the input and of a run
    assert size == len(text.encode())


def test_places_are_counted_under_two_prompts(gallery):
    [view] = frames(1)
    panel = gallery.difference(view, stage([0, 0, 2, 3]), stage([0, 1, 1, -1]))
    assert panel.note == "1 both, 2 only A, 1 only B"


def test_names_at_the_ends_of_lines_do_not_touch(gallery):
    found = gallery.apart([20.0, 22.0, 21.0, 80.0], 5.0)
    assert np.diff(np.sort(found)).min() > 4.9
    assert np.argsort(found).tolist() == [0, 2, 1, 3]
    assert found[3] == 80.0
