"""The second model's training: packing equals asking alone, the fast tower is the tower, runs resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lightkv.checkpoints.clip_processor import make_processor
from training import watching
from training.deepen import START_LAYERS, grow
from training.segments import NO_LABEL, question_words
from training.video import packing, tower, train
from training.video.architecture import (
    LAYERS,
    VOCABULARY,
    make_model,
    make_pictures,
    make_tokenizer,
)
from training.video.looking import looking_loss, observed, places
from training.video.packing import Shape, frame_of, make_batch, packed_forward, see, vision_features

SHAPES = {
    "picture": Shape("picture", ((1, 9, 8),)),
    "clip": Shape("clip", ((5, 6, 7),)),
    "pair": Shape("pair", ((1, 8, 9), (1, 10, 8))),
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return make_model(START_LAYERS).eval()


def test_the_fast_tower_is_the_tower_of_transformers(model):
    for rows, cols in ((6, 6), (8, 12), (9, 5)):
        pixels = torch.randn(3, rows * cols * 4, 96)
        fast = tower.tower_tokens(model.model.visual, pixels, rows, cols)
        grid = torch.tensor([[3, 2 * rows, 2 * cols]])
        slow = model.model.visual(pixels.flatten(0, 1), grid_thw=grid).pooler_output
        torch.testing.assert_close(fast.flatten(0, 1), slow, atol=2e-5, rtol=0)


@pytest.mark.parametrize("group", SHAPES)
def test_packed_logits_equal_those_of_each_question_alone(model, group):
    shape, processor = SHAPES[group], make_processor(make_pictures(), make_tokenizer())
    frame = frame_of(shape, model)
    batch = make_batch(np.random.default_rng(8), shape, 1, 5, "test", frame)
    seen = see(np.random.default_rng(8), shape, 5, "test", None)  # draws the same
    if group == "clip":
        given = {"videos": [seen.frames[0].reshape(-1, *seen.frames[0].shape[2:])]}
        pads = "<|vision_start|><|video_pad|><|vision_end|>"
    else:
        given = {"images": [[Image.fromarray(frames[0, 0]) for frames in seen.frames]]}
        pads = "<|vision_start|><|image_pad|><|vision_end|> " * len(seen.frames)
    with torch.no_grad():
        hidden = packed_forward(model, batch, frame, vision_features(model, batch))
        together = model.lm_head(hidden)[0]
        for start, question in zip(shape.starts, seen.questions, strict=False):
            if question is None:
                continue
            text = f"user : {pads} {question.text} assistant : {question.answer}"
            alone = model(**processor(text=[text], return_tensors="pt", **given)).logits[0]
            length = len(question_words(question)) + len(question.answer.split())
            torch.testing.assert_close(
                together[start : start + length], alone[-length:], atol=5e-5, rtol=0
            )


@pytest.mark.parametrize("group", SHAPES)
def test_labels_spell_the_answers_and_looks_lead_to_digits(model, group):
    shape = SHAPES[group]
    frame = frame_of(shape, model)
    batch = make_batch(np.random.default_rng(3), shape, 6, 5, "test", frame)
    seen = see(np.random.default_rng(3), shape, 5, "test", None)
    answers = [word for q in seen.questions if q for word in (*q.answer.split(), "<eos>")]
    assert [VOCABULARY[i] for i in batch.targets[0] if i != NO_LABEL] == answers
    digit = batch.labels[..., 0] != tower.NO_DIGIT
    for row, goal in zip(batch.looks.sample, batch.looks.goal, strict=True):
        marked = {0, *frame.vision[digit[row]].tolist()}
        assert goal
        assert set(goal) <= marked
    assert len(places(shape)) == len(frame.vision) == batch.labels.shape[1]
    # Of each digit of a clip one token, and one only, is the first: what counting looks at.
    firsts = int((digit & (batch.seen_before == 0)).sum())
    known = sum(len(set(row[row != tower.NO_DIGIT].tolist())) for row in batch.labels[..., 0])
    assert firsts == known


def test_watched_plain_attention_changes_no_output(model):
    shape = SHAPES["clip"]
    frame = frame_of(shape, model)
    batch = make_batch(np.random.default_rng(1), shape, 2, 4, "test", frame)
    decoder = model.model.language_model
    before = decoder.config._attn_implementation
    with torch.no_grad():
        image = vision_features(model, batch)
        apart = packed_forward(model, batch, frame, image)
        with observed(decoder) as (captured, states):
            watched = packed_forward(model, batch, frame, image)
            assert looking_loss(captured, batch.looks, frame).isfinite()
            assert set(states) == {1, 2, 4}
    torch.testing.assert_close(watched, apart, atol=2e-5, rtol=0)
    assert decoder.config._attn_implementation == before
    assert not watching._captured


def test_the_grown_decoder_computes_the_same(model):
    frame = frame_of(SHAPES["pair"], model)
    batch = make_batch(np.random.default_rng(1), SHAPES["pair"], 1, 4, "test", frame)
    deep = grow(model, make_model(LAYERS)).eval()
    with torch.no_grad():
        image = vision_features(model, batch)
        same = packed_forward(deep, batch, frame, image)
        torch.testing.assert_close(
            same, packed_forward(model, batch, frame, image), atol=1e-5, rtol=0
        )


def test_a_run_goes_on_after_a_resume_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "AUGMENTED_COPIES", 1)
    monkeypatch.setattr(tower, "reading_accuracy", lambda *_: [])  # slow, and asked of nobody here
    settings = train.Settings(
        tower_steps=1, deepen_at=2, steps=3, words=1, threads=1, save_every=1, test_every=9
    )
    ends = []
    for name, parts in (("whole", [None]), ("parts", [0.0, None])):
        out = tmp_path / name
        out.mkdir()
        for minutes in parts:
            trainer = train.Trainer(settings, out)
            if minutes is None and len(parts) > 1:
                trainer.resume()
                assert trainer.progress.updates == 1
            trainer.run(minutes)
        ends.append(trainer.model.state_dict())
        assert (out / "checkpoint" / "model.safetensors").stat().st_size < 12e6
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


def test_read_kinds_cover_all_words_behind_the_prefix():
    for shape in SHAPES.values():
        assert len(packing.kind_of_word(shape)) == shape.starts[-1]


def test_what_is_beside_a_token_is_the_answer_of_its_spatial_question():
    rng, asked = np.random.default_rng(4), 0
    for _ in range(20):
        seen = see(rng, SHAPES["picture"], 7, "test", None)
        labels = packing.beside_labels(72, seen)
        assert (labels != NO_LABEL).any(1).sum() == len(seen.digits)
        for question in seen.questions:
            if question is not None and question.kind == "spatial":
                side = 0 if "left" in question.text else 1
                (token,) = seen.tokens[question.named]
                assert labels[token, side] == int(question.answer)
                asked += 1
    assert asked > 10
    clip = see(rng, SHAPES["clip"], 5, "test", None)
    assert (packing.beside_labels(210, clip) == NO_LABEL).all()


def test_words_that_answer_are_told_what_is_asked_for(model):
    frame = frame_of(SHAPES["clip"], model)
    batch = make_batch(np.random.default_rng(5), SHAPES["clip"], 4, 5, "test", frame, None, 1.0)
    kinds = packing.kind_of_word(SHAPES["clip"])
    told = (batch.asked != NO_LABEL).any(-1)
    assert told.sum() > 20
    for row, word in told.nonzero().tolist():
        assert batch.targets[row, word] != NO_LABEL
        start = max(at for at in SHAPES["clip"].starts if at <= word)
        question = [VOCABULARY[i] for i in batch.text[row, start : word + 1].tolist()]
        side, name = batch.asked[row, word].tolist()
        assert (side != NO_LABEL) == (kinds[word] == "motion")
        for known, index in ((packing.SIDE_WORDS, side), (packing.NAMED_WORDS, name)):
            assert index == NO_LABEL or known[index] in question


def test_lively_clips_have_more_digits_that_move():
    def moving(lively):
        rng = np.random.default_rng(6)
        clips = (see(rng, SHAPES["clip"], 5, "test", None, lively) for _ in range(40))
        return sum(one.motion is not None for seen in clips for one in seen.digits)

    assert moving(1.0) > 1.5 * moving(0.0)
