"""Tests of `AdapterSuite` for what a session does to the model, and which models it cannot take."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

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
