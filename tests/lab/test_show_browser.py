"""The page of `lightkv show` in a real browser: it draws, hovering works, and the console is quiet."""

from __future__ import annotations

import numpy as np
import pytest
from pages import chromium, needs_browser
from PIL import Image
from test_show import picture_of
from test_show_clips import moving

from lightkv.lab.pictures import Picture, ShownRun, ShownStage, ShownView, write_html

pytestmark = needs_browser


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile"), 1500, 1200) as made:
        yield made


@pytest.fixture(scope="module")
def picture():
    return picture_of(prompts=["what </script> is red ?", "list & all"], retention=0.35)


@pytest.fixture(scope="module")
def mixed(picture):
    """Four patches in a row; stages after layers 0 and 2, and on the caches of layers 1 and 3."""
    pixels = Image.fromarray(np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(8, 32, 3))
    view = ShownView("picture 1", np.arange(4)[None], pixels, "encoder")
    stages = [
        ShownStage(
            title, layer, site, np.array(home), np.ones(4), None, len({*home} - {-1}), entered
        )
        for title, layer, site, home, entered in (
            ("before the decoder", 0, "layers", [0, 1, 2, 3], 4),
            ("after layer 2", 2, "layers", [0, 0, -1, 3], 4),
            ("cache of layer 1", 1, "cache", [0, 0, -1, 3], 4),
            ("cache of layer 3", 3, "cache", [0, 0, -1, 0], 2),
        )
    ]
    run = ShownRun("what ?", "4", "mixed", 0.6, (4, 2, 2, 1), tuple(stages))
    return Picture("made up", (view,), (run,), 4)


@pytest.fixture
def opened(driver, picture, tmp_path):
    """The driver on the page, which must have come up by itself."""
    path = tmp_path / "show.html"
    write_html(picture, path)
    driver.get(path.as_uri())
    assert driver.find_element("tag name", "body").get_attribute("data-ready") == "1"
    yield driver
    assert [entry for entry in driver.get_log("browser") if entry["level"] != "INFO"] == []


def canvases(driver, shows=None):
    found = driver.find_elements("tag name", "canvas")
    return [c for c in found if shows in (None, c.get_attribute("data-shows"))]


def point_at(driver, canvas, row, column, rows, columns):
    from selenium.webdriver.common.action_chains import ActionChains

    size = canvas.size
    x = (column + 0.5) * size["width"] / columns - size["width"] / 2
    y = (row + 0.5) * size["height"] / rows - size["height"] / 2
    ActionChains(driver).move_to_element_with_offset(canvas, x, y).perform()


def tooltip(driver):
    return driver.find_element("id", "tip").text


def pixels(driver, canvas, tmp_path):
    path = tmp_path / "canvas.png"
    path.write_bytes(canvas.screenshot_as_png)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_every_run_and_stage_is_drawn(opened, picture, tmp_path):
    stages = len(picture.runs[0].stages)
    assert len(canvases(opened)) == 2 * (1 + stages)
    assert len(canvases(opened, "groups")) == 2 * stages
    headings = [h.text for h in opened.find_elements("tag name", "h2")]
    assert "what </script> is red ?" in headings[0]
    assert "list & all" in headings[1]
    shown = pixels(opened, canvases(opened, "input")[0], tmp_path)
    assert shown.std() > 3  # the picture is there
    merged = pixels(opened, canvases(opened, "groups")[0], tmp_path)
    assert np.ptp(merged, axis=-1).mean() > np.ptp(shown, axis=-1).mean() + 20  # with colours on it


def test_hovering_shows_the_group_in_all_stages(opened, picture):
    [view] = picture.views
    first, last = picture.runs[0].stages[0], picture.runs[0].stages[-1]
    token = int(np.flatnonzero(first.home != np.arange(picture.count))[0])
    row, column = np.argwhere(view.tokens == token)[0]
    point_at(opened, canvases(opened)[1], row, column, view.rows, view.columns)
    text = tooltip(opened)
    assert f"token {token}: row {row + 1}, column {column + 1}" in text
    assert f"merged {first.title}" in text
    assert f"{len(first.groups[int(first.home[token])])} members" in text
    assert "weight in its token" in text
    assert "× the mean" in text
    groups = [c.get_attribute("data-group").split() for c in canvases(opened)]
    per_run = 1 + len(picture.runs[0].stages)
    for number, stage in ((1, first), (per_run - 1, last)):
        assert [int(t) for t in groups[number]] == stage.groups[int(stage.home[token])]
    other = picture.runs[1].stages[-1]
    assert [int(t) for t in groups[-1]] == other.groups[int(other.home[token])]
    assert groups[0] == [str(token)]


def test_notes_on_a_layers_cache_tell_of_its_own_past(driver, mixed, tmp_path):
    """Stages behind the layer, and caches of other layers, had no part in it."""
    write_html(mixed, tmp_path / "mixed.html")
    driver.get((tmp_path / "mixed.html").as_uri())
    for place, column, expected in (
        (3, 1, "merged cache of layer 1"),
        (3, 2, "dropped cache of layer 1"),
        (4, 1, "merged after layer 2"),
        (4, 2, "dropped after layer 2"),
        (2, 1, "merged after layer 2"),
        (4, 3, "merged cache of layer 3"),
    ):
        point_at(driver, canvases(driver)[place], 0, column, 1, 4)
        assert expected in tooltip(driver)
    captions = [c.text for c in driver.find_elements("tag name", "figcaption")[2:]]
    assert captions == [
        "after layer 2: 4 → 2 tokens",
        "cache of layer 1: 4 → 2 tokens",
        "cache of layer 3: 2 → 1 tokens",
    ]
    [single, *_] = canvases(driver)[1:]
    point_at(driver, single, 0, 1, 1, 4)
    assert "a token of its own" in tooltip(driver)


def test_the_keyboard_moves_from_patch_to_patch(opened):
    from selenium.webdriver.common.keys import Keys

    canvas = canvases(opened)[1]
    canvas.send_keys(Keys.ARROW_RIGHT)
    assert "row 1, column 1" in tooltip(opened)
    canvas.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert "row 2, column 2" in tooltip(opened)
    canvas.send_keys(Keys.ESCAPE)
    assert canvas.get_attribute("data-group") is None


def test_guidance_and_tabs(opened, picture, tmp_path):
    before = pixels(opened, canvases(opened, "groups")[0], tmp_path)
    opened.find_element("id", "heat").click()
    stages = len(picture.runs[0].stages)
    assert len(canvases(opened, "guidance")) == 2 * stages
    after = pixels(opened, canvases(opened, "guidance")[0], tmp_path)
    assert np.abs(before - after).mean() > 10
    tabs = opened.find_elements("css selector", "[role=tab]")
    assert [tab.text for tab in tabs][:3] == [
        "all stages",
        "input",
        picture.runs[0].stages[0].title,
    ]
    tabs[2].click()
    assert tabs[2].get_attribute("aria-selected") == "true"
    large = canvases(opened)
    assert len(large) == 2
    assert large[0].size["width"] > 1.5 * after.shape[1]


def test_frames_of_a_clip_stand_side_by_side(driver, tmp_path):
    """A group over time is outlined in all of its frames; the stages lie below one another."""
    write_html(moving(3), tmp_path / "clip.html")
    driver.get((tmp_path / "clip.html").as_uri())
    drawn = canvases(driver)
    assert len(drawn) == 2 * 3
    assert len({canvas.location["y"] for canvas in drawn[:3]}) == 1
    assert drawn[3].location["y"] > drawn[0].location["y"] + drawn[0].size["height"]
    point_at(driver, drawn[4], 1, 0, 2, 3)
    assert "token 9: clip 1, frame 1, row 2, column 1" in tooltip(driver)
    assert "now in the token at clip 1, frame 0, row 2, column 1" in tooltip(driver)
    assert drawn[4].get_attribute("data-group") == "3 9 15"
    point_at(driver, drawn[5], 0, 1, 2, 3)
    assert "dropped after layer 1" in tooltip(driver)
    assert [entry for entry in driver.get_log("browser") if entry["level"] != "INFO"] == []
