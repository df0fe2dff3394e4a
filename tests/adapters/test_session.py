"""Sessions for servers and notebooks: attach, detach, and what a session tells."""

import gc
import inspect
import re
import weakref

import pytest
import torch
from tiny import tiny_llava

import lightkv
from lightkv import PipelineSpec
from lightkv.core.errors import SessionError
from lightkv.testing.oracles import snapshot

SCHEDULE = [{"after_layer": 2, "ratio": 0.5, "windows": 2}]
IDS = torch.tensor([[7, *[5] * 36, 8, 9]])
PIXELS = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def run(model, **changes):
    with torch.no_grad():
        return model(input_ids=IDS, pixel_values=PIXELS, **changes)


def test_all_keywords_are_listed_and_documented():
    listed = list(inspect.signature(lightkv.compress).parameters)
    for function in (lightkv.attach, lightkv.prepare):
        assert list(inspect.signature(function).parameters) == listed
    assert {"retention", "matcher", "schedule", "source", "layout", "gap_warning"} <= set(listed)
    for name in listed:
        assert re.search(rf"^    [ \w,]*\b{name}\b[\w, ]*: ", lightkv.compress.__doc__, re.M), name
    assert set(PipelineSpec.model_fields) | {"retention"} <= set(listed)


def test_every_part_of_a_pipeline_can_be_replaced():
    given = {"name": "mine", "source": "me", "scorer": "uniform", "proportional": True}
    session = lightkv.prepare(tiny_llava(), "tome", schedule=SCHEDULE, **given)
    spec = session.pipeline.spec
    assert {name: getattr(spec, name) for name in given} == given


def test_attach_stays_until_detached():
    model = tiny_llava()
    plain, before = run(model).logits, snapshot(model)
    session = lightkv.attach(model, "lightkv", schedule=SCHEDULE)
    assert session.active
    assert "attached" in repr(session)
    with pytest.raises(SessionError, match="nothing has run"):
        _ = session.last
    run(model)
    assert session.last.samples[0].vision_tokens[-1] == 20
    lightkv.detach(model)
    assert not session.active
    lightkv.detach(model)
    lightkv.detach(session)
    session.detach()
    assert snapshot(model) == before
    assert torch.equal(run(model).logits, plain)
    assert len(session.reports) == 1


def test_a_session_can_be_entered_again():
    model = tiny_llava()
    session = lightkv.prepare(model, "fastv", retention=0.6)
    for _ in range(2):
        session.attach()
        run(model)
        session.detach()
    assert [report.run for report in session.reports] == [0, 1]


def test_without_a_cache_there_is_nothing_to_count():
    model = tiny_llava()
    with lightkv.compress(model, "lightkv", schedule=SCHEDULE) as session:
        without = run(model, use_cache=False).logits
        cached = run(model).logits
    assert session.reports[0].cache_bytes is None
    assert session.reports[1].cache_bytes is not None
    assert torch.equal(without, cached)


def test_outputs_of_all_layers_keep_their_own_lengths():
    model = tiny_llava()
    with lightkv.compress(model, "lightkv", schedule=SCHEDULE):
        states = run(model, output_hidden_states=True).hidden_states
    assert [state.shape[1] for state in states[:2]] == [39, 39]
    assert states[-1].shape[1] == 23


def test_a_model_is_not_kept_alive():
    model = tiny_llava()
    with lightkv.compress(model, "fastv") as session:
        run(model)
    ghost = weakref.ref(model)
    del model, session
    gc.collect()
    assert ghost() is None


def test_the_pipeline_of_a_session_reproduces_it():
    model = tiny_llava()
    with lightkv.compress(model, "lightkv", retention=0.6) as session:
        wanted = run(model).logits
        text = session.pipeline.to_yaml()
    again = lightkv.PipelineSpec.from_yaml(text)
    with lightkv.compress(model, again) as session:
        assert torch.equal(run(model).logits, wanted)
    assert abs(session.last.planned_retention - 0.6) <= 0.005
