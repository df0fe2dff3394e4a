"""Tests of `AdapterSuite` for what a session does to the model, and which models and calls it takes."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from lightkv.core.attention import QueryKeyView
from lightkv.core.errors import LightKVError, ModelError, SessionError
from lightkv.core.layout import VisionLayout
from lightkv.testing.adapters import AdapterBench, Prompt
from lightkv.testing.oracles import snapshot


class SessionTests(AdapterBench):
    """Part of `AdapterSuite`."""

    def test_a_model_in_a_session_is_not_copied(self) -> None:
        """Half of the copy would be attached. The original goes on, and later copies are plain."""
        model, inputs = self.model_and_inputs(self.batch[:1])
        plain = self.logits(model, inputs)
        ways: tuple[Any, ...] = (
            copy.deepcopy,
            pickle.dumps,
            lambda one: torch.save(one, io.BytesIO()),
            lambda one: copy.deepcopy(nn.ModuleList([one])),
            lambda one: copy.deepcopy(self.decoder(one)),
        )
        with self.session(model, self.batch[:1]):
            wanted = self.logits(model, inputs)
            for way in ways:
                with pytest.raises(SessionError, match="copied") as error:
                    way(model)
                assert error.value.field == "model"
                assert "detach" in str(error.value.remedy)
            assert torch.equal(self.logits(model, inputs), wanted)
            assert model.state_dict()
        copied = copy.deepcopy(model)
        assert snapshot(copied).keys() == snapshot(model).keys()
        assert torch.equal(self.logits(copied, inputs), plain)

    def test_masks_of_another_form_are_refused(self) -> None:
        """Flex attention takes block masks, whatever kind of layers the model has."""
        self.need("sdpa")
        model = self.make_model()
        config: Any = self.decoder(model).config
        config._attn_implementation = "flex_attention"
        before = snapshot(model)
        with pytest.raises(ModelError) as error, self.session(model, self.batch):
            pass
        assert error.value.field == "attn_implementation"
        assert error.value.value == "flex_attention"
        assert snapshot(model) == before

    @pytest.mark.parametrize("inside", ["projection", "look"])
    def test_ctrl_c_leaves_no_tap(self, inside: str) -> None:
        """Hooks are not called then. The model has its own configs at once, and the session goes on."""
        model, rows = self.make_model(), self.batch[:1]
        inputs, layer = self.make_inputs(model, rows), int(self.schedule[0]["after_layer"]) - 1
        stack: Any = self.decoder(model).layers
        attention: Any = self.part(stack[layer], "self_attn")
        config, plain = getattr(attention, "config", None), self.logits(model, inputs)
        with self.session(model, rows, "fastv") as session:
            # Twice: the first passes of a session check themselves with hooks of their own.
            wanted = [self.logits(model, inputs) for _ in range(2)][1]
            before = snapshot(model)
            with interrupted(attention, inside), pytest.raises(KeyboardInterrupt):
                self.logits(model, inputs)
            assert getattr(attention, "config", None) is config
            assert snapshot(model) == before
            assert torch.equal(self.logits(model, inputs), wanted)
            assert len(session.reports) == 3
            with interrupted(attention, inside), pytest.raises(KeyboardInterrupt):
                self.logits(model, inputs)
        assert getattr(attention, "config", None) is config
        assert torch.equal(self.logits(model, inputs), plain)

    def test_generating_without_a_cache_is_refused(self) -> None:
        """Each step would be compressed anew. A single pass without one is fine."""
        self.need("streaming")  # the generate of transformers
        model, inputs = self.model_and_inputs(self.pair)
        if "inputs_embeds" in inputs:
            # transformers keeps a cache all the same.
            with self.session(model, self.pair, "fastv") as session:
                found = [self.logits(model, inputs, use_cache=cached) for cached in (True, False)]
            assert torch.equal(*found)
            assert len(session.reports) == 2
            return
        with self.session(model, self.pair, "fastv") as session, torch.no_grad():
            with pytest.raises(SessionError) as error:
                self.generate(model, inputs, use_cache=False)
            assert error.value.field == "use_cache"
            assert error.value.value is False
            assert not session.reports
            one = self.call(model, inputs, use_cache=False).logits[:, -1]
            two = self.call(model, inputs, use_cache=True).logits[:, -1]
        self.check_close(one, two)

    @pytest.mark.parametrize("pipeline", ["fastv", "lightkv"])
    def test_logits_that_a_caller_wishes_for_are_no_drafts(self, pipeline: str) -> None:
        """How many logits are wanted changes nothing of what is scored as prompt."""
        self.need("streaming")
        prompts = self.pair[:1]
        model, inputs = self.model_and_inputs(prompts)
        if "logits_to_keep" not in inspect.signature(model.forward).parameters:
            pytest.skip("cannot: its forward gives all logits, whatever a caller wishes for")
        found = []
        with self.session(model, prompts, pipeline):
            for wanted in (1, 3):
                out = self.generate(model, inputs, logits_to_keep=wanted)
                found.append(torch.stack(out.logits))
        self.check_close(*found)

    def test_embeddings_alone_need_spans(self) -> None:
        """Without ids and pixels they may hold a picture; told that there is none, they are text."""
        self.need("embeddings")
        model: Any = self.make_model()
        text = [Prompt(4, 0, 3, seed=1), Prompt(2, 0, 5, seed=2)]
        ids = self.make_inputs(model, text)["input_ids"]
        embeddings = model.get_input_embeddings()(ids)
        for called in (model, self.decoder(model)):
            with self.session(model, text), pytest.raises(LightKVError) as error:
                called(inputs_embeds=embeddings)
            assert error.value.field == "inputs_embeds"
            assert "layout" in str(error.value.remedy)
        with torch.no_grad():
            plain = self.decoder(model)(inputs_embeds=embeddings).last_hidden_state
            layout = VisionLayout.from_spans([[]])
            with self.session(model, text, layout=layout):
                same = self.decoder(model)(inputs_embeds=embeddings).last_hidden_state
        assert torch.equal(plain, same)


@contextmanager
def interrupted(attention: nn.Module, inside: str) -> Iterator[None]:
    """Ctrl-C in the first projection of an attention, or while a stage looks in."""

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    if inside == "projection":
        module = next(part for part in attention.modules() if isinstance(part, nn.Linear))
        handle = module.register_forward_pre_hook(stop)
        try:
            yield
        finally:
            handle.remove()
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QueryKeyView, "last_row", stop)
        yield
