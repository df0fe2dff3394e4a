"""The gallery: its page, its files, and what draws them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from synthetic_study import study, write

from lightkv.checkpoints.bundled import FOLDERS, VIDEO
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


@pytest.fixture
def source(gallery, tmp_path):
    """A grid of three strategies at two retentions, as `study.py` keeps it."""
    from kept import keep

    made = study(clusters=4, retentions=(0.5, 0.2), axes=SMALL, unfinished=[("pending", "")])
    target = tmp_path / "presets_small.json"
    assert keep(write(tmp_path / "small.sqlite", *made), target)
    return target


def test_what_is_kept_is_drawn(gallery, source, tmp_path):
    found = gallery.Quality.read(source)
    assert set(found.names) == set(SMALL["method"])
    assert found.title == "4 scenes"
    rows = {row["name"]: row for row in found.cells.kept.cells}
    for name in SMALL["method"]:
        points = found.points(name)
        assert (np.diff(points[:, 0]) > 0).all()
        own = [rows[f"method={name} retention={wanted}"] for wanted in ("0.2", "0.5")]
        own = [row for row in own if row["status"] == "done"]
        keys = ("retention", "mean", "mean_low", "mean_high")
        expected = [[row[key] * (1 if key == "retention" else 100) for key in keys] for row in own]
        np.testing.assert_allclose(points, expected)
    assert len(found.points("visionzip")) == 1  # the other is pending
    for _ in range(2):
        drawn = dict(gallery.draw(["curves", "presets"], [source], tmp_path))
        assert [path.name for path in drawn] == ["curves.svg", "presets-small.svg"]
        texts = [path.read_bytes() for path in drawn]
        assert list(drawn.values()) == [len(text) for text in texts]
    both = gallery.curves(tmp_path / "two.svg", [found, found])
    assert both > len(texts[0])  # a panel for each


def test_strategies_with_the_same_figures_share_a_plot(gallery, source):
    data = json.loads(source.read_text())
    cells = data["cells"]
    method = cells["columns"].index("factor_method")
    again = [row for row in cells["rows"] if row[method] == "fastv"]
    for name in ("framefusion", "evs"):
        cells["rows"] += [[name if field == "fastv" else field for field in row] for row in again]
    source.write_text(json.dumps(data))
    groups = gallery.Quality.read(source).alike
    assert ["fastv", "framefusion"] in groups
    assert ["evs"] in groups  # acts at another place
    assert sorted(map(len, groups)) == [1, 1, 1, 2]


def test_a_grid_of_the_study_without_answers_waits(gallery, source, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "KEPT", tmp_path)
    text = source.read_text()
    (tmp_path / "presets_clips.json").write_text(text)
    (tmp_path / "presets_pairs.json").write_text(text.replace('"done"', '"pending"'))
    found = gallery.of_study(gallery.CURVES_OF)
    assert [path.name for path in found] == ["presets_clips.json"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: "name,model\n1,2\n", "not a text that"),
        (lambda text: text.replace("factor_method", "factor_other"), "axis `method`"),
        (lambda text: text.replace('"done"', '"pending"'), "no finished cells"),
        (lambda text: text.replace('"fastv"', '"lightkv"'), "several axes, models or tasks"),
        (lambda text: text.replace('"vanilla"', '"other"'), "uncompressed"),
    ],
)
def test_other_files_are_refused(gallery, source, change, told):
    source.write_text(change(source.read_text()))
    with pytest.raises(SystemExit, match=told):
        gallery.Quality.read(source)


def test_the_page_says_what_the_curves_show(gallery):
    from gallery_plots import LEADING

    section = PAGE.partition("## Retention against quality")[2].partition("## ")[0]
    shown = set()
    for path in gallery.of_study(gallery.CURVES_OF):
        found = gallery.Quality.read(path)
        for name in set(LEADING) & set(found.names):
            rows = [row for row in found.points(name) if abs(row[0] - 0.2) < 0.02]
            shown |= {f"{value:.1f}" for _, *values in rows for value in values}
    told = re.findall(r"(?<!\d)\d+\.\d(?!\d)", re.sub(r"\b0\.2\b", "", section))
    assert len(told) > 20
    assert not set(told) - shown, "docs/gallery.md has figures that its curves do not have"


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
