"""What the contracts of both stand-ins override: their caches, positions and attention are old."""

import copy
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import nn

import lightkv
from lightkv.testing import AdapterSuite
from lightkv.testing.oracles import Recorder
from lightkv.testing.truth import check_painted, decoder_inputs
from standins.legacy import greedy

IMAGE = 5


class LegacySuite(AdapterSuite):
    cannot = {
        "beams": "the stand-in's generate is greedy; published beams are the transformers 4 mixin's",
        "sampling": "the stand-in's generate is greedy; sampling is the transformers 4 mixin's",
        "cache site": "tuples of keys and values go from layer to layer inside the model's own code",
        "next layer": "its projections are packed or its rotary tables made inside the attention",
        "sdpa": "published attention is eager or flash, chosen by class",
        "cache objects": "this code takes tuples only; objects are refused (test_bad_input)",
        "quantised cache": "this code takes tuples only",
        "offloaded cache": "this code takes tuples only",
        "cropping": "a tuple has no crop; one that the caller sliced is refused as a stranger",
        "refusing copies": "a tuple is a value, and beams copy it: a copy goes on (tested below)",
        "assisted": "drafts come from the generate of transformers, and crop a cache object",
        "streaming": "streamers belong to the generate of transformers; threads are tested instead",
        "gradient checkpointing": "the stand-in has none; arguments by place are tested instead",
        "embeddings": "the outer forward takes ids; embeddings at the decoder are refused, tested",
    }
    # A tuple carries no code that could refuse; the decoder's own check of sizes does.
    outside_error = (ValueError, RuntimeError, IndexError)

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

    def cache_of(self, pairs):
        return tuple(pairs)

    def cache_length(self, cache):
        return cache[0][0].shape[2]

    def answer(self, inputs, out):
        return out.sequences

    def later_call(self, model, whole, later):
        """By hand, as published `generate` cannot: the answer's last token was never fed."""
        new = later["input_ids"].shape[1] + 1
        mask = self.valid(model, whole).long()
        return {**later, "input_ids": whole["input_ids"][:, -new:], "attention_mask": mask}

    def generate(self, model, inputs, past_key_values=None, **changes):
        changes = {"max_new_tokens": self.steps, "suppress_tokens": [IMAGE], **changes}
        if past_key_values is None:
            return model.generate(**inputs, **changes)
        state = {"past": past_key_values, "mask": inputs["attention_mask"]}

        def step(given, tokens):
            if tokens is not None:
                state["mask"] = torch.cat([state["mask"], torch.ones_like(tokens)], dim=1)
                given = {"input_ids": tokens}
            out = self.go_on(model, {**given, "attention_mask": state["mask"]}, state["past"])
            state["past"] = out.past_key_values
            return out

        with torch.no_grad():
            return greedy(step, inputs, **changes)

    def go_on(self, model, inputs, past):
        """One pass on a cache; the mask tells all entries of the uncompressed decoder."""
        raise NotImplementedError

    def test_a_copy_of_a_cache_goes_on_as_the_cache_does(self):
        model = self.make_model()
        with self.session(model, self.pair):
            first = self.generate(model, self.make_inputs(model, self.pair))
            call = self._next_turn(model, first, self.pair)
            copies = copy.deepcopy(first.past_key_values)
            runs = [
                self.generate(model, call, past_key_values=past).logits
                for past in (copies, first.past_key_values)
            ]
        assert torch.equal(*map(torch.stack, runs))


def layout_of(adapter, model, run, monkeypatch):
    """The layout that a session gives to its engine while `run` runs."""
    found = []
    with lightkv.compress(model, "random", adapter=adapter, retention=0.8) as session:
        begin = session._engine.begin
        monkeypatch.setattr(
            session._engine,
            "begin",
            lambda layout, *drafts: (found.append(layout), begin(layout, *drafts))[1],
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
