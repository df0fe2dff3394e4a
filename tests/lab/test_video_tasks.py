"""The second model's tasks: pictures, pairs and clips, of test and of training scans."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from lightkv.checkpoints import bundled
from lightkv.checkpoints.clip_processor import make_processor
from lightkv.core.errors import ModelError
from lightkv.demo import load
from lightkv.demo.clips import held_out_clips
from lightkv.demo.digits import ink
from lightkv.demo.native import held_out_pictures
from lightkv.lab.designs import samples as parts
from lightkv.lab.designs.schema import SearchStudy
from lightkv.lab.errors import SearchError, TaskError
from lightkv.lab.grids.cells import probe_of
from lightkv.lab.subject import Subject, usage
from lightkv.lab.tasks import build_task
from training.video.architecture import make_model, make_pictures, make_tokenizer, save_processor

NAMES = ("scenes", "pictures", "pairs", "clips")


def task(name, number=2, **more):
    return build_task({"name": name, name: number, **more})


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    return Subject(make_model(4).eval(), make_processor(make_pictures(), make_tokenizer()))


# -- samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_all_questions_about_a_scene_are_a_cluster_and_splits_share_nothing(name):
    test, train = (task(name, 3, seed=4, split=split).samples() for split in ("test", "train"))
    for samples in (test, train):
        assert len({sample.id for sample in samples}) == len(samples)
        clusters = {sample.cluster: sample.seen().digest() for sample in samples}
        assert len(set(clusters.values())) == len(clusters) == 3
        assert all(sample.seen().digest() == clusters[sample.cluster] for sample in samples[:2])
        assert all(sample.tokens >= 64 for sample in samples)
    assert [s.id for s in task(name, 2, seed=4).samples()] == [
        s.id for s in test if s.id < "000002"
    ]
    assert [s.answers for s in test] != [s.answers for s in train]
    assert "split" not in task(name).spec()  # cells from before there were splits stay the same
    assert task(name, split="train").spec()["split"] == "train"


def test_training_samples_are_drawn_of_training_scans(monkeypatch):
    """No scan of one split is a scan of the other, and the task hands its split to the generator."""
    one, other = ({scan.tobytes() for scan in ink(split)} for split in ("test", "train"))
    assert not one & other
    asked = []

    def drawn(split):
        asked.append(split)
        return ink(split)

    monkeypatch.setattr("lightkv.demo.scenes.ink", drawn)
    for name in NAMES:
        for split in ("test", "train"):
            asked.clear()
            task(name, 1, split=split).samples()[0].seen()
            assert set(asked) == {split}


def test_samples_are_those_of_the_demo():
    (scene, questions), *_ = held_out_pictures(1, 3)
    samples = task("pictures", 1, seed=3).samples()
    assert [(s.question, s.answers[0]) for s in samples] == [(q.text, q.answer) for q in questions]
    assert samples[0].seen().pictures[0].tobytes() == scene.image.tobytes()
    clip, _ = held_out_clips(1, 3)[0]
    first = task("clips", 1, seed=3).samples()[0]
    assert np.array_equal(first.seen().clips[0], clip.frames)
    assert {len(s.seen().pictures) for s in task("pairs", 2).samples()} == {2}


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ({"name": "pictures", "rows": 8, "columns": 8}, 64),
        ({"name": "pictures", "rows": 20, "columns": 20}, 400),
        ({"name": "clips", "steps": 8, "rows": 11, "columns": 11}, 968),
    ],
)
def test_sizes_are_as_asked_for(subject, given, tokens):
    samples = build_task({given["name"]: 2, **given}).samples()
    assert {sample.tokens for sample in samples} == {tokens}
    ids = subject.inputs(samples[:1])["input_ids"]
    pads = {subject.model.config.image_token_id, subject.model.config.video_token_id}
    assert sum(int((ids == pad).sum()) for pad in pads) == tokens


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"name": "pictures", "rows": 8}, "both or none"),
        ({"name": "pictures", "rows": 7, "columns": 8}, "greater than or equal to 8"),
        ({"name": "clips", "steps": 4, "rows": 8}, "all or none"),
        ({"name": "clips", "by": "day"}, "'kind' or 'time'"),
        ({"name": "clips", "kinds": ["list"]}, "no such kind.*moment"),
        ({"name": "scenes", "split": "all"}, "'train' or 'test'"),
    ],
)
def test_what_a_task_refuses(source, message):
    with pytest.raises(TaskError, match=message):
        build_task(source).samples()


def test_clips_are_told_apart_by_the_frames_since_the_digit_was_seen():
    found = task("clips", 12, seed=1, by="time", kinds=["color_to_digit", "last"]).samples()
    told = Counter(sample.kind for sample in found)
    assert len(told) > 3
    for sample in found:
        frames = int(sample.kind.split()[0])
        clip, _ = held_out_clips(int(sample.cluster) + 1, 1)[-1]
        (asked,) = [one for one in clip.digits if str(one.digit) == sample.answers[0]]
        gone = 2 * (asked.first + len(asked.cells))
        assert frames == len(clip.frames) - gone
    assert sorted(told) == sorted(told, key=lambda kind: int(kind[:2]))  # as reports sort them


# -- asking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("pictures", ["exists", "list"]),
        ("pairs", ["second_color"]),
        ("clips", ["exists", "count"]),
    ],
)
def test_a_batch_answers_as_each_alone_and_keeps_what_it_should(subject, name, kinds):
    chosen = task(name, 2, seed=2, kinds=kinds)
    samples = chosen.samples()
    batches = list(chosen.batches(samples))
    if name == "clips":
        lengths = [{s.tokens + len(s.question.split()) for s in batch} for batch in batches]
        assert all(len(each) == 1 for each in lengths)
        assert not any((subject.inputs(b)["attention_mask"] == 0).any() for b in batches)
        assert sorted(s.id for b in batches for s in b) == sorted(s.id for s in samples)
    else:
        assert [{s.kind for s in batch} for batch in batches] == [{kind} for kind in kinds]
    assert all(a.tokens <= b.tokens for batch in batches for a, b in itertools.pairwise(batch))
    with subject.compressed("lightkv", 0.5, probe=samples[:1]) as session:
        found = {o.sample: o for o in chosen.evaluate(subject, samples)}
        assert usage(session).retention == pytest.approx(0.5, abs=0.05)
        alone = [subject.generate([sample], 2)[0] for sample in samples[:2]]
    assert set(found) == {sample.id for sample in samples}
    for sample, answer in zip(samples, alone, strict=False):
        assert sample.kind == "list" or found[sample.id].answer == answer


def test_retention_is_measured_on_several_sizes():
    samples = task("pictures", 9).samples()
    probe = probe_of(samples)
    assert 4 < len(probe) <= 8
    assert len({sample.seen().sizes for sample in probe}) == len(probe)
    assert len(probe_of(task("scenes", 9).samples())) == 1


def test_a_search_draws_on_training_scans_and_is_tested_on_others():
    data = {"name": "pictures", "pictures": 8}
    study = {"model": "demo-video", "retention": 0.5, "task": {**data, "split": "train"}}
    study |= {"space": {"positions": {"any": ["keep", "renumber"]}}, "held_out": data}

    def check_apart(data):
        told = SearchStudy.parse(data)
        parts.check_apart(parts.searched(told), parts.held_out(told))

    check_apart(study)
    with pytest.raises(SearchError, match="held-out data are those"):
        SearchStudy.parse({**study, "task": data})
    with pytest.raises(SearchError, match="8 of the held-out pictures"):
        check_apart({**study, "task": {**data, "pictures": 9}})


# -- the model ------------------------------------------------------------------------------------


def test_the_second_model_is_loaded_by_name(subject, tmp_path, monkeypatch):
    monkeypatch.setitem(bundled.FOLDERS, bundled.VIDEO, tmp_path / "video")
    command = "python -m training.video.train"
    for loaded in (lambda: load("video"), lambda: Subject.load("demo-video")):
        with pytest.raises(ModelError, match=f"demo-video.*without the model.*{command}"):
            loaded()
    save_processor(tmp_path / "video")
    subject.model.save_pretrained(tmp_path / "video")
    samples = task("clips", 1).samples()[:1]
    named = Subject.load("demo-video", device="cpu")
    for model, processor in (load("video"), (named.model, named.processor)):
        assert Subject(model, processor).generate(samples, 2) == subject.generate(samples, 2)
    with pytest.raises(ModelError, match="scenes, video"):
        load("vidoe")
