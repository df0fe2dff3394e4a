"""What the vision encoder made is kept between cells, and nothing that a cell reports depends on it."""

from __future__ import annotations

import pytest
import torch

from lightkv.checkpoints.clip_processor import make_processor
from lightkv.lab.encodings import Encodings
from lightkv.lab.grids.measuring import measure
from lightkv.lab.grids.worker import Job, Worker
from lightkv.lab.subject import Subject, usage
from lightkv.lab.tasks import build_task
from training.video.architecture import make_model, make_pictures, make_tokenizer


@pytest.fixture(scope="module")
def scenes():
    return Subject.load("demo")


@pytest.fixture(scope="module")
def native():
    torch.manual_seed(0)
    return Subject(make_model(4).eval(), make_processor(make_pictures(), make_tokenizer()))


def task(name, number, **more):
    return build_task({"name": name, name: number, "batch_size": 2, **more})


def tower(subject):
    inner = subject.model.model
    return getattr(inner, "visual", None) or inner.vision_tower


def cell(subject, asked, pipeline, context):
    """All that a cell reports of its answers."""
    session = subject.prepare(pipeline, 0.5 if pipeline else None)
    torch.manual_seed(0)
    with getattr(subject, context)(session):
        found = list(asked.evaluate(subject, asked.samples()))
    return found, usage(session), [report.samples for report in session.reports]


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("scenes", task("scenes", 3, kinds=["count", "exists"])),
        ("native", task("pictures", 2, kinds=["count", "list"], rows=8, columns=9)),
        ("native", task("pairs", 1)),
        ("native", task("clips", 1, kinds=["count", "last"], steps=4, rows=6, columns=6)),
    ],
    ids=["scenes", "pictures", "pairs", "clips"],
)
def test_cells_report_the_same_with_kept_encodings(request, model, asked):
    subject = request.getfixturevalue(model)
    subject.encodings.clear()
    for pipeline in (None, "lightkv", "random"):
        kept, made = cell(subject, asked, pipeline, "answering"), subject.encodings.made
        assert kept == cell(subject, asked, pipeline, "within")
        assert kept == cell(subject, asked, pipeline, "answering")
        assert subject.encodings.made == made  # no batch twice
        assert "forward" not in vars(tower(subject))
    encodings, batches = subject.encodings, len(list(asked.batches(asked.samples())))
    assert encodings.made <= batches
    assert encodings.made + encodings.reused == 6 * batches


def test_an_encoder_that_is_read_runs(scenes):
    asked = task("scenes", 2, kinds=["count"])
    scenes.encodings.clear()
    assert cell(scenes, asked, "visionzip", "answering") == cell(
        scenes, asked, "visionzip", "within"
    )
    assert (scenes.encodings.made, scenes.encodings.reused) == (0, 0)


def test_times_come_from_no_kept_encoding(scenes):
    samples = task("scenes", 2, kinds=["count"]).samples()
    cell(scenes, task("scenes", 2, kinds=["count"]), None, "answering")
    before, runs = (scenes.encodings.made, scenes.encodings.reused), []
    handle = tower(scenes).encoder.register_forward_hook(lambda *_: runs.append(1))
    measure(scenes, scenes.prepare(None), samples)
    handle.remove()
    assert (scenes.encodings.made, scenes.encodings.reused) == before
    assert len(runs) == 3  # to warm up, timed, for its memory


def test_what_is_given_out_may_be_written_to(native):
    pixels = native.inputs(task("pictures", 1, rows=8, columns=8).samples()[:1])
    given = pixels["pixel_values"], pixels["image_grid_thw"]
    encodings = Encodings()
    with torch.no_grad(), native.within(native.prepare(None)) as session:
        truth = tower(native)(*given).pooler_output
        with encodings.within(session):
            for _ in range(3):
                found = tower(native)(*given)
                assert torch.equal(found.pooler_output, truth)
                found.pooler_output.zero_()
                found.pooler_output = None
    assert (encodings.made, encodings.reused) == (1, 2)


def test_other_pixels_shapes_and_arguments_are_told_apart(native):
    pixels = native.inputs(task("pictures", 1, rows=8, columns=9).samples()[:1])
    values, grid = pixels["pixel_values"], pixels["image_grid_thw"]
    encodings = Encodings()
    with torch.no_grad(), native.within(native.prepare(None)) as session, encodings.within(session):
        for one in (values, values + 1e-6):
            for form in (grid, grid[:, [0, 2, 1]]):
                for more in ({}, {"output_hidden_states": True}):
                    tower(native)(one, form, **more)
    assert (encodings.made, encodings.reused) == (8, 0)


def test_the_bound(native):
    samples = task("pictures", 2, kinds=["count"], rows=8, columns=8).samples()
    inputs = [native.inputs([sample]) for sample in samples]
    tokens = 64 * 4 * native.model.config.vision_config.hidden_size + 64 * 128
    encodings = Encodings(limit=tokens * 4 * 3 // 2)  # room for one and a half
    with native.within(native.prepare(None)) as session, encodings.within(session):
        for each in (*inputs, *inputs):
            native.first_token(each)
    assert (encodings.made, encodings.reused) == (3, 1)


def test_a_worker_forgets_with_the_task():
    worker = Worker()
    spec = {"model": "demo", "dtype": "auto", "seed": 0, "pipeline": {}}
    for seed in (0, 1):
        asked = task("scenes", 2, kinds=["count"], seed=seed).spec()
        result = worker.run(Job("a", {**spec, "task": asked}))
        assert result.error is None
        assert worker.subject("demo", "auto").encodings.made == 1
