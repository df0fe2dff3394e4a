"""Pictures of runs on clips: frames side by side, groups over time in one colour, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import lightkv.lab
from lightkv.checkpoints.clip_processor import make_processor
from lightkv.checkpoints.clips import open_clip
from lightkv.core.errors import ConfigError
from lightkv.core.layout import VisionLayout
from lightkv.demo.clips import held_out_clips
from lightkv.lab.pictures import Picture, ShownRun, ShownStage, ShownView, draw_png
from lightkv.lab.pictures.data import DROPPED
from lightkv.lab.pictures.page import page_data
from lightkv.lab.pictures.paint import TINT, colors, paint_groups, paint_input
from lightkv.lab.pictures.sheet import IN_LINE, MOST_FRAMES, drawn_views, places
from lightkv.lab.pictures.views import shown_views
from training.video.architecture import make_model, make_pictures, make_tokenizer

FRAMES = held_out_clips(1, 2026)[0][0].frames[:6, :48, :48]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return make_model(4).eval(), make_processor(make_pictures(), make_tokenizer())


def show(model, images=None, strategy="framefusion", **options):
    options = {"max_new_tokens": 1, "retention": 0.6, "videos": FRAMES, **options}
    ask = ["how many digits ?"]
    return lightkv.lab.show(model[0], images, ask, [strategy], processor=model[1], **options)


def views_of(spans, clips, images=()):
    layout = VisionLayout.from_spans([spans], length=200)
    return shown_views(layout, images, {}, None, None, clips)


def clip_of(shape, frames=None):
    frames = shape[0] if frames is None else frames
    pixels = np.arange(frames, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(pixels, (frames, 4 * shape[1], 4 * shape[2], 3))


# -- views ----------------------------------------------------------------------------------------


def test_a_picture_and_a_clip_of_one_prompt(model, tmp_path):
    still = Image.new("RGB", (64, 48), (200, 10, 10))
    png, html = tmp_path / "a.png", tmp_path / "a.html"
    picture = show(model, still, out=[png, html])
    assert [v.title for v in picture.views] == ["picture 1"] + [
        f"clip 1, frame {n}" for n in (1, 3, 5)
    ]
    assert [view.clip for view in picture.views] == [None, 0, 0, 0]
    shown = np.concatenate([view.tokens.ravel() for view in picture.views])
    assert shown.tolist() == list(range(48 + 3 * 36)) == list(range(picture.count))
    for number, view in enumerate(picture.views[1:]):
        assert view.tokens.shape == (6, 6)
        assert (np.asarray(view.pixels) == FRAMES[2 * number]).all()
    [stage] = picture.runs[0].stages
    assert len(stage.groups) == stage.left < picture.count
    with Image.open(png) as image:
        assert image.size[1] > 3 * places(picture.views)[1][1]  # panels below one another
    assert '"clip":0' in html.read_text().replace(" ", "")


def test_frames_of_a_layout():
    """Tokens that span frames, odd numbers of frames, sampled ones, two clips around a picture."""
    clips = [clip_of((3, 2, 2), 5), clip_of((4, 1, 3), 9)]
    spans = [(0, (3, 2, 2), "video"), (20, (1, 2, 2), "image"), (30, (4, 1, 3), "video")]
    views = views_of(spans, clips, [Image.new("RGB", (8, 8))])
    assert [view.clip for view in views] == [0, 0, 0, None, 1, 1, 1, 1]
    first = [int(view.title.rsplit(" ", 1)[1]) - 1 for view in views if view.clip is not None]
    assert first == [0, 2, 4, 0, 2, 4, 6]
    for view in views:
        if view.clip is not None:
            number = int(view.title.rsplit(" ", 1)[1]) - 1
            assert (np.asarray(view.pixels) == number).all()
    assert views[3].title == "picture 1"
    assert [view.tokens.min() for view in views] == [0, 4, 8, 12, 16, 19, 22, 25]


@pytest.mark.parametrize(
    ("spans", "clips", "message"),
    [
        ([(0, (2, 2, 2), "video")], 0, "0 clips, but the layout has 1"),
        ([(0, (2, 2, 2), "video")], 2, "2 clips, but the layout has 1"),
        ([(0, (1, 2, 2), "image")], 1, "1 clips, but the layout has 0"),
        ([(0, (5, 1, 1), "audio")], 0, "0 pictures, but the layout has view 0 of 5"),
    ],
)
def test_other_clips_than_the_layout_has_are_refused(spans, clips, message):
    with pytest.raises(ConfigError, match=message):
        views_of(spans, [clip_of((2, 2, 2))] * clips)


# -- drawing --------------------------------------------------------------------------------------


def moving(frames, rows=2, columns=3):
    """A clip on which the first column is one group over time, the second gone, the third left alone."""
    count = frames * rows * columns
    tokens = np.arange(count).reshape(frames, rows, columns)
    home = np.arange(count).reshape(frames, rows, columns)
    home[:, 0, 0], home[:, 1, 0], home[:, :, 1] = 0, columns, DROPPED
    home = home.ravel()
    grey = Image.new("RGB", (6, 4), (90, 120, 60))
    views = [ShownView(f"clip 1, frame {n}", t, grey, "stretched", 0) for n, t in enumerate(tokens)]
    left = np.unique(home[home >= 0]).size
    stage = ShownStage("after layer 1", 1, "layers", home, np.ones(count), None, left, count)
    return Picture("m", tuple(views), (ShownRun("?", "a", "s", 0.5, (count,), (stage,)),), count)


def test_groups_over_time_share_a_colour_and_dropped_ones_are_dim():
    picture, cell = moving(3), 20
    palette, [stage] = colors(picture), picture.runs[0].stages
    assert palette[0] != palette[3]
    for number, view in enumerate(picture.views):
        plain, drawn = paint_input(view, cell).astype(int), paint_groups(view, stage, palette, cell)
        for row in range(2):
            tinted = plain[0, 0] * (1 - TINT) + np.array(palette[3 * row]) * TINT
            assert np.abs(drawn[row * cell + 3, 3] - tinted).max() <= 1
            dot = drawn[row * cell + cell // 2, cell // 2]
            assert (dot > 250).all() == (number == 0)  # where the token keeps its place
            gone = drawn[row * cell + 3, cell + 3].astype(int)
            assert np.ptp(gone) <= 1
            assert gone.min() > 180
        assert (drawn[:, 2 * cell :] == plain[:, 2 * cell :]).all()


def test_groups_that_follow_one_another_in_time_differ():
    """Two groups, each a whole frame: they touch nowhere but in time."""
    tokens = np.arange(50).reshape(25, 1, 2)
    pixels = Image.new("RGB", (2, 1))
    views = [ShownView("", t, pixels, "stretched", 0) for t in tokens]
    home = np.repeat(np.arange(0, 50, 2), 2)
    stage = ShownStage("", 1, "layers", home, np.ones(50), None, 25, 50)
    run = ShownRun("?", "a", "s", 0.5, (50,), (stage,))
    found = np.array(colors(Picture("m", tuple(views), (run,), 50)))[::2]
    assert np.abs(np.diff(found.astype(int), axis=0)).sum(axis=1).min() > 80


def test_frames_stand_side_by_side(tmp_path):
    picture = moving(8)
    at, (width, height) = places(picture.views)
    assert len({place.top for place in at}) == 1
    steps = np.diff([place.left for place in at])
    assert (steps == 3 * at[0].cell + 4).all()
    image = draw_png(picture, tmp_path / "a.png")
    assert image.size[1] > 2 * height
    assert image.size[0] >= width
    many = drawn_views(moving(60).views)
    assert len(many) == MOST_FRAMES
    assert many[0].title.endswith(" 0")
    assert many[-1].title.endswith(" 59")
    assert len({place.top for place in places(many)[0]}) == MOST_FRAMES // IN_LINE
    assert [view["clip"] for view in page_data(picture)["views"]] == [0] * 8


# -- what a clip may be -----------------------------------------------------------------------------


def test_clips_are_folders_films_arrays_and_frames(tmp_path):
    frames = [Image.fromarray(frame) for frame in clip_of((3, 2, 2))]
    for number, frame in enumerate(frames):
        frame.save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    film = tmp_path / "film.png"
    frames[0].save(film, save_all=True, append_images=frames[1:])
    wanted = clip_of((3, 2, 2))
    for given in (wanted, frames, list(wanted), iter(frames), film, str(film)):
        assert (open_clip(given) == wanted).all()
    film.unlink()
    assert (open_clip(tmp_path) == wanted).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, "not a clip"),
        ([5], "not a clip"),
        (Image.new("RGB", (4, 4)), "not a clip"),
        (np.zeros((2, 4, 4, 3)), "float64"),
        (np.zeros((2, 4, 4, 1), dtype=np.uint8), "uint8 .4, 4, 1."),
        ([], "without frames"),
        ([Image.new("RGB", (4, 4)), Image.new("RGB", (4, 5))], "one size"),
        ("none.gif", "no such file.*ffmpeg"),
        (__file__, "not a clip that Pillow can read.*ffmpeg"),
    ],
)
def test_what_is_no_clip(given, message):
    with pytest.raises(ConfigError, match=message):
        open_clip(given)


def test_a_single_clip_needs_no_list(model, tmp_path):
    for given in (FRAMES[:2], [FRAMES[:2]], [Image.fromarray(f) for f in FRAMES[:2]]):
        assert show(model, videos=given).count == 36
    with pytest.raises(ConfigError, match="not a clip"):
        show(model, videos=3)
    with pytest.raises(ConfigError, match="at least one picture or clip"):
        show(model, videos=None)
