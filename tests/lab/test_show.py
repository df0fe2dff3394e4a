"""Pictures of runs: groups are what the trace says, and PNG and page draw them."""

from __future__ import annotations

import json
import re
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import lightkv
import lightkv.lab
from lightkv.core.errors import ConfigError, SessionError
from lightkv.core.layout import VisionLayout
from lightkv.core.pipeline.pipeline import PipelineSpec, get_preset
from lightkv.demo.model import load
from lightkv.demo.scenes import held_out_scenes
from lightkv.lab.pictures import Picture, ShownRun, ShownStage, ShownView, collect, draw_png
from lightkv.lab.pictures.collect import stages_of
from lightkv.lab.pictures.data import DROPPED, IN_TEXT, differences, differing
from lightkv.lab.pictures.page import page, page_data
from lightkv.lab.pictures.paint import colors, paint_groups, paint_heat, paint_input
from lightkv.lab.pictures.sheet import MOST_STAGES, _Sheet, chosen, places
from lightkv.lab.pictures.views import shown_views
from lightkv.lab.webpage import embedded

ASK = ["what digit is cyan ?", "what digit is white ?"]


@cache
def bundled():
    return load()


@cache
def scene(number=0):
    return held_out_scenes(number + 1, 2026)[number][0].image


def picture_of(prompts=ASK, strategies=("lightkv",), images=None, **options):
    options = {"retention": 0.35, "max_new_tokens": 2, "name": "demo", **options}
    model, processor = bundled()
    return collect(model, processor, images or [scene()], prompts, strategies, **options)


@cache
def both():
    return picture_of(strategies=("lightkv", "lightkv-plus"))


# -- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["lightkv", "lightkv-plus", "fastv", "tome", "prumerge"])
def test_groups_partition_the_patches(strategy):
    """Every patch is in one group or dropped; as many groups as tokens are left; shares add up."""
    [run] = picture_of(["list all digits"], [strategy]).runs
    assert run.stages
    for stage in run.stages:
        members = sorted(token for group in stage.groups.values() for token in group)
        gone = np.flatnonzero(stage.home == DROPPED).tolist()
        assert sorted(members + gone) == list(range(144))
        assert len(stage.groups) == stage.left
        assert stage.left == run.tokens[stage.layer]
        assert all(home in group for home, group in stage.groups.items())
        assert (stage.weight[stage.home < 0] == 0).all()
    assert run.tokens[-1] == run.stages[-1].left
    if strategy == "fastv":
        assert (run.stages[-1].sizes <= 1).all()
        assert (run.stages[-1].home == DROPPED).sum() == 144 - run.tokens[-1]
    if strategy.startswith("lightkv"):
        assert (run.stages[-1].home >= 0).all()
        sums = np.bincount(run.stages[-1].home, run.stages[-1].weight)
        assert sums[sums > 0] == pytest.approx(1, abs=1e-5)


def test_dropped_patches_are_those_that_provenance_lacks():
    model, processor = bundled()
    from lightkv.checkpoints.prompts import build_inputs

    inputs = build_inputs(processor, "list all digits", [scene()], model)
    with lightkv.compress(model, "fastv", retention=0.5, trace=True) as session, torch.no_grad():
        model(**inputs)
    provenance, [stage] = session.last.provenance(), stages_of(session.last)
    assert ((provenance.slot < 0).numpy() == (stage.home < 0)).all()
    kept = provenance.slot >= 0
    homes = provenance.survivor[provenance.slot[kept]]
    assert homes.tolist() == stage.home[kept.numpy()].tolist()
    assert stage.weight == pytest.approx(provenance.weight.double().numpy())
    assert session.last.layout.original_counts == (144,)
    assert session.last.after_layers == (stage.layer,)


def test_a_session_without_trace_has_no_pictures():
    model, processor = bundled()
    from lightkv.checkpoints.prompts import build_inputs

    inputs = build_inputs(processor, "list all digits", [scene()], model)
    with lightkv.compress(model, "fastv") as session, torch.no_grad():
        model(**inputs)
    assert session.last.layout is None
    with pytest.raises(SessionError, match="trace=True"):
        stages_of(session.last)


def test_matching_is_blind_in_lightkv_and_sees_the_question_in_plus():
    first, second, plus, other = both().runs
    assert differing(first.stages[0], second.stages[0]) == 0
    assert (first.stages[0].home == second.stages[0].home).all()
    assert not np.allclose(first.stages[0].guidance, second.stages[0].guidance)
    assert differing(plus.stages[0], other.stages[0]) > 0
    assert differences(both().runs, 1)[0] == 0
    assert differences(both().runs, 2) is None  # of another strategy
    assert differences(both().runs, 3)[0] > 0


def test_guidance_is_that_of_the_token_that_held_the_patch():
    for run in both().runs:
        for before, stage in zip((None, *run.stages[:-1]), run.stages, strict=True):
            assert np.isfinite(stage.guidance).all()  # nothing is ever dropped here
            if before is not None:
                for group in before.groups.values():
                    assert len(set(stage.guidance[group].tolist())) == 1
    [run] = picture_of(["list all digits"], ["pyramiddrop"]).runs
    for before, stage in zip(run.stages[:-1], run.stages[1:], strict=True):
        assert (np.isnan(stage.guidance) == (before.home == DROPPED)).all()


def test_strategies_without_a_scorer_have_no_guidance():
    [run] = picture_of(["list all digits"], ["dart"]).runs
    assert all(stage.guidance is None for stage in run.stages)


@pytest.mark.parametrize("strategy", ["imgrand", "tome-cache", "elastic-cache"])
def test_stages_on_the_cache_have_one_for_each_layer(strategy):
    [run] = picture_of(["list all digits"], [strategy], retention=0.5).runs
    assert {stage.site for stage in run.stages} == {"cache"}
    for stage in run.stages:
        assert stage.title == f"cache of layer {stage.layer}"
        assert len(stage.groups) == run.tokens[stage.layer] == stage.left
        members = [token for group in stage.groups.values() for token in group]
        assert len(members) == (stage.home >= 0).sum()
        assert set(np.unique(stage.home[stage.home < 0])) <= {DROPPED, IN_TEXT}
    assert len(chosen(run.stages)) == min(len(run.stages), MOST_STAGES)
    assert chosen(run.stages)[-1] is run.stages[-1]


def test_stages_tell_what_entered_them(tmp_path, monkeypatch):
    """Caches take nothing from one another; and the PNG leaves stages out that took something."""
    schedule = [{"after_layer": 3, "ratio": 0.5}, {"site": "cache", "ratio": 0.5}]
    data = yaml.safe_load(get_preset("tome").to_yaml())
    spec = PipelineSpec.parse({**data, "schedule": schedule})
    picture = picture_of(["list all digits"], [spec], retention=None)
    stages = picture.runs[0].stages
    expected = [(144, 72)] + [(144, 72)] * 3 + [(72, 36)] * 9
    assert [(stage.entered, stage.left) for stage in stages] == expected
    assert [s["entered"] for s in picture.to_dict()["runs"][0]["stages"]] == [
        e for e, _ in expected
    ]
    written = []
    monkeypatch.setattr(_Sheet, "_panel", lambda self, *given: written.append(given[2]) or (0, 0))
    draw_png(picture, tmp_path / "a.png")
    drawn = [f"{stage.title}: {stage.entered} to {stage.left}" for stage in chosen(stages)]
    assert written == ["input", *drawn]


def test_full_retention_is_the_input_alone():
    picture = picture_of(["list all digits"], retention=1.0)
    assert picture.runs[0].stages == ()
    assert "no stage" in picture.runs[0].remark
    assert page_data(picture)["runs"][0]["stages"] == []


# -- drawing --------------------------------------------------------------------------------------


@st.composite
def pictures(draw):
    """Random traces: groups over one or two views, some patches dropped, some separators."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    views, count = [], 0
    for number, (rows, columns) in enumerate(shapes):
        tokens = np.arange(count, count + rows * columns).reshape(rows, columns)
        pixels = random.integers(0, 256, (rows * 3, columns * 5, 3), dtype=np.uint8)
        views.append(ShownView(f"picture {number + 1}", tokens, Image.fromarray(pixels), "encoder"))
        count += rows * columns + draw(st.integers(0, 2))
    home = np.arange(count)
    stages, left = [], count
    for layer in range(draw(st.integers(1, 3))):
        alive = np.unique(home[home >= 0])
        goes = {h: random.choice([h, random.choice(alive), DROPPED]) for h in alive.tolist()}
        # A home must hold itself.
        goes = {h: t if t == DROPPED or goes[t] == t else h for h, t in goes.items()}
        home = np.array([goes.get(h, h) for h in home.tolist()])
        guidance = np.where(random.random(count) < 0.8, random.random(count), np.nan)
        entered, left = left, np.unique(home[home >= 0]).size
        figures = (home, np.ones(count), guidance, left, entered)
        stages.append(ShownStage(f"after layer {layer}", layer, "layers", *figures))
    run = ShownRun("</script><b>", "a & b \u2028", "x", 0.5, (count,), tuple(stages))
    return Picture("model", tuple(views), (run, run), count)


@settings(deadline=None, max_examples=25)
@given(pictures())
def test_what_is_painted(picture):
    palette, cell = colors(picture), 8
    assert len(palette) == picture.count
    for stage in picture.runs[0].stages:
        for view in picture.views:
            plain, drawn = paint_input(view, cell), paint_groups(view, stage, palette, cell)
            heat = paint_heat(view, stage.guidance, 1.0, cell)
            assert drawn.shape == plain.shape == heat.shape == (view.rows * 8, view.columns * 8, 3)
            for (row, column), token in np.ndenumerate(view.tokens):
                part = np.s_[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
                if stage.home[token] == DROPPED:
                    assert np.ptp(drawn[part].astype(int), axis=-1).max() <= 2  # grey
                elif stage.sizes[token] == 1:
                    assert (drawn[part] == plain[part]).all()
                else:
                    assert (drawn[part] != plain[part]).any()


@pytest.mark.parametrize("side", [24, 48])
def test_no_two_groups_have_one_colour(side):
    count = side * side
    view = ShownView("p", np.arange(count).reshape(side, side), Image.new("RGB", (8, 8)), "encoder")
    picture = Picture("m", (view,), (), count)
    found = colors(picture)
    assert found == colors(picture)
    for steps in (1, 4):  # channels of the PNG have steps of 4
        assert (
            len({tuple((channel + steps // 2) // steps for channel in c) for c in found}) == count
        )


@settings(deadline=None, max_examples=25)
@given(pictures())
def test_the_page_holds_what_it_shows(picture):
    text = page(picture)
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    data = json.loads(found)
    assert data == json.loads(json.dumps(page_data(picture)))
    plain = json.loads(json.dumps(picture.to_dict()))
    assert data["runs"][0]["prompt"] == "</script><b>"
    assert [s["home"] for s in data["runs"][0]["stages"]] == [
        s["home"] for s in plain["runs"][0]["stages"]
    ]
    shown = {token for view in data["views"] for line in view["tokens"] for token in line}
    assert shown | set(data["separators"]) == set(range(picture.count))
    assert text.count("<script") == text.count("</script>") == 2


def test_no_text_can_end_the_script():
    for text in ("</script>", "<!--", "]]>", "\u2028", "&lt;"):
        made = embedded([text])
        assert not set("<>&\u2028") & set(made)
        assert json.loads(made) == [text]


def test_the_page_needs_no_network():
    text = page(both())
    assert not re.findall(r"(?:https?:)?//[a-z]", re.sub(r"data:image/\w+;base64,[^\"]*", "", text))
    assert "default-src 'none'" in text


def test_png(tmp_path):
    picture = both()
    path = tmp_path / "show.png"
    draw_png(picture, path)
    with Image.open(path) as image:
        image.load()
        [place], panel = places(picture.views)
        assert panel == (place.cell * 12, place.cell * 12)
        assert image.size[0] >= 7 * panel[0]
        assert image.size[1] >= 4 * panel[1]
        shown = np.asarray(image.convert("RGB")).astype(int)
    at = paint_input(picture.views[0], place.cell).astype(int)
    rows = [y for y in range(40, 120) if np.abs(shown[y, 20 : 20 + panel[0]] - at[0]).max() <= 3]
    assert rows, "the input is not where it should be"
    assert np.abs(shown[rows[0] : rows[0] + panel[1], 20 : 20 + panel[0]] - at).max() <= 3


def test_long_and_foreign_prompts_are_cut(tmp_path):
    run = both().runs[0]
    long = ShownRun("x" * 900 + "é", "было 中", "s", 0.5, run.tokens, run.stages)
    image = draw_png(Picture("m", both().views, (long,), 144), tmp_path / "a.png")
    assert image.size[0] < 2000


@pytest.mark.parametrize("prompt", ["why " * 200, "first line\nsecond line " * 30])
def test_a_long_question_leaves_room_for_the_answer(prompt, tmp_path):
    run = both().runs[0]
    for answer in ("a cat", "a cat\non a mat", "a cat " * 100):
        long = ShownRun(prompt, answer, "a name " * 90, 0.5, run.tokens, run.stages)
        shown = np.asarray(draw_png(Picture("m", both().views, (long,), 144), tmp_path / "a.png"))
        blue = (np.abs(shown[:100].astype(int) - (0, 92, 168)).max(axis=-1) < 8).any(axis=0)
        assert np.flatnonzero(blue).size > 30  # columns with strokes of the answer
        assert not blue[-20:].any()


# -- views ----------------------------------------------------------------------------------------


def test_a_cropped_picture_is_drawn_as_the_encoder_saw_it():
    wide = Image.new("RGB", (300, 100), (255, 0, 0))
    wide.paste(scene().resize((100, 100)), (100, 0))
    [view] = picture_of(["list all digits"], images=[wide]).views
    assert view.source == "encoder"
    assert view.tokens.tolist() == np.arange(144).reshape(12, 12).tolist()
    shown = np.asarray(view.pixels).astype(int)
    assert shown.shape == (96, 96, 3)
    assert not ((shown[..., 0] > 250) & (shown[..., 1] < 5)).any()  # the red is cropped off


def test_several_pictures():
    views = picture_of(["list all digits"], images=[scene(), scene(2)]).views
    assert [view.title for view in views] == ["picture 1", "picture 2"]
    assert views[1].tokens.min() == 144
    for view, number in zip(views, (0, 2), strict=True):
        assert (np.asarray(view.pixels) == np.asarray(scene(number))).all()


def views_of(spans, images, pixels, **inputs):
    layout = VisionLayout.from_spans([spans], length=64)
    maker = SimpleNamespace(image_processor=bundled()[1].image_processor)
    return shown_views(layout, images, {"pixel_values": pixels, **inputs}, maker, None)


def test_pixels_that_are_no_rectangles_leave_the_picture_itself():
    """As those of Qwen-VL: a list of flattened patches."""
    wide = Image.new("RGB", (1600, 400), (10, 200, 30))
    [view] = views_of([(3, (1, 2, 8))], [wide], torch.zeros(64, 12))
    assert (view.rows, view.columns, view.source) == (2, 8, "stretched")
    assert view.pixels.size == (768, 192)  # large ones are kept small
    assert wide.size == (1600, 400)


def test_pictures_padded_to_one_size_are_not_taken_from_the_pixels():
    """As those of Pixtral: the padding is no part of the grid."""
    images = [scene(), scene(2)]
    spans = [(1, (1, 2, 3)), (9, (1, 3, 2))]
    sizes = torch.tensor([[16, 24], [24, 16]])
    padded = views_of(spans, images, torch.zeros(2, 3, 24, 24), image_sizes=sizes)
    assert [view.source for view in padded] == ["stretched"] * 2
    assert [view.tokens.min() for view in padded] == [0, 6]
    plain = views_of(spans, images, torch.zeros(2, 3, 24, 24))
    assert [view.source for view in plain] == ["encoder"] * 2
    assert np.asarray(plain[0].pixels).max() <= 128  # zeros are the mean


def test_frames_that_no_clip_was_given_for_are_refused():
    with pytest.raises(ConfigError, match="videos"):
        views_of([(1, (4, 2, 3))], [scene()], torch.zeros(1, 3, 8, 8))
