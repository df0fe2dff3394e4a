"""Time to the first token and peak memory of single prompts."""

import pytest
import torch

from lightkv.lab.grids import measuring
from lightkv.lab.grids.cells import first_about
from lightkv.lab.grids.measuring import measure
from lightkv.lab.subject import Subject
from lightkv.lab.tasks import build_task


@pytest.fixture(scope="module")
def subject():
    return Subject.load("demo")


@pytest.fixture(scope="module")
def samples():
    return build_task({"name": "scenes", "scenes": 3, "kinds": ["count", "exists"]}).samples()


def test_what_a_prefill_takes(subject, samples, monkeypatch):
    monkeypatch.setattr(measuring, "PROMPTS", 2)
    drawn = torch.get_rng_state()
    whole = measure(subject, subject.prepare(None), samples, workers=3)
    again = measure(subject, subject.prepare(None), samples)
    small = measure(subject, subject.prepare("lightkv", 0.3), samples)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert subject.session is None
    assert 0 < whole.fastest <= whole.first_token <= whole.slowest
    assert (whole.prompts, whole.workers) == (2, 3)
    assert whole.threads == torch.get_num_threads()
    assert whole.machine.endswith(" cores")
    assert whole.peak_bytes == again.peak_bytes
    assert small.peak_bytes < whole.peak_bytes
    # The cache of the prompt is alive at the peak, the weights are not counted.
    text = subject.model.config.text_config
    size = subject.inputs(samples[:1])["input_ids"].shape[-1] * text.num_hidden_layers * 2 * 4
    size *= text.num_key_value_heads * text.head_dim
    weights = sum(each.numel() * each.element_size() for each in subject.model.parameters())
    assert size < whole.peak_bytes < min(8 * size, weights)


def test_the_first_question_of_each_of_a_few_pictures(samples):
    found = first_about(samples, 2)
    assert [sample.cluster for sample in found] == ["000000", "000001"]
    assert found[0] is samples[0]
