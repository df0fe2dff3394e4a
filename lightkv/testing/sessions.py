"""Tests of `AdapterSuite` for what a session does to the model, and which models it cannot take."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from lightkv.core.attention import QueryKeyView
from lightkv.core.errors import ModelError, SessionError
from lightkv.testing.adapters import AdapterBench
from lightkv.testing.oracles import snapshot


class SessionTests(AdapterBench):
    """Part of `AdapterSuite`."""

    def test_a_model_in_a_session_is_not_copied(self) -> None:
        """Half of the copy would be attached. The original goes on, and later copies are plain."""
        model = self.make_model()
        inputs = self.make_inputs(model, self.batch[:1])
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
