"""What the contracts of both stand-ins override: their caches, positions and attention are old."""

from contextlib import contextmanager
from functools import partial

import pytest
from torch import nn

import lightkv
from lightkv.testing import AdapterSuite
from lightkv.testing.oracles import Recorder
from lightkv.testing.truth import check_painted, decoder_inputs

IMAGE = 5


class LegacySuite(AdapterSuite):
    cannot = {
        "beams": "the stand-in's generate is greedy; published beams are the transformers 4 mixin's",
        "sampling": "the stand-in's generate is greedy; sampling is the transformers 4 mixin's",
        "cache site": "tuples of keys and values go from layer to layer inside the model's own code",
        "sdpa": "published attention is eager or flash, chosen by class",
    }

    def cached(self, cache):
        assert isinstance(cache, tuple)
        assert all(isinstance(entry, tuple) for entry in cache)
        return list(cache)

    @contextmanager
    def record(self, model, layer):
        """Angles are picked by a layer's `position_ids`, so those stand for them."""
        recorder, decoder = Recorder(), self.decoder(model)

        def first(module, args, kwargs):
            if kwargs.get("position_ids") is not None:
                recorder.position_ids.append(kwargs["position_ids"].clone())

        def chosen(module, args, kwargs):
            recorder.rotary.append((kwargs["position_ids"].clone(),))

        before = partial(nn.Module.register_forward_pre_hook, with_kwargs=True)
        handles = [before(decoder, first), before(decoder.layers[layer], chosen)]
        try:
            yield recorder
        finally:
            for handle in handles:
                handle.remove()

    def generate(self, model, inputs, **changes):
        return model.generate(**inputs, max_new_tokens=self.steps, suppress_tokens=[IMAGE])


def layout_of(adapter, model, run, monkeypatch):
    """The layout that a session gives to its engine while `run` runs."""
    found = []
    with lightkv.compress(model, "random", adapter=adapter, retention=0.8) as session:
        begin = session._engine.begin
        monkeypatch.setattr(
            session._engine, "begin", lambda layout: (found.append(layout), begin(layout))[1]
        )
        run()
    return found[0]


def check_truth(adapter, model, inputs, painted, views, monkeypatch):
    """Paint moves the token that the layout names, also through the model's own forward."""
    layout = layout_of(adapter, model, lambda: model(**inputs), monkeypatch)
    before, after = (
        decoder_inputs(model, adapter.decoder(model), given)[0] for given in (inputs, painted)
    )
    check_painted(before, after, layout.samples[0], views)
    return layout.samples[0]


def refused(error, match, session, run):
    """`run` raises in a session: a typed error with a field and a remedy. The model is restored."""
    with pytest.raises(error, match=match) as caught, session:
        run()
    assert caught.value.field
    assert caught.value.remedy
