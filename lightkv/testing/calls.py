"""Tests of `AdapterSuite` for who calls a pass, and with what."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightkv.core.errors import LightKVError, SessionError
from lightkv.core.layout import VisionLayout
from lightkv.testing.adapters import AdapterBench
from lightkv.testing.prompts import Prompt


class CallTests(AdapterBench):
    """Part of `AdapterSuite`."""

    def test_generating_without_a_cache_is_refused(self) -> None:
        """Each step would be compressed anew. A single pass without one is fine."""
        self.need("streaming")  # the generate of transformers
        model = self.make_model()
        inputs = self.make_inputs(model, self.pair)
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
        torch.testing.assert_close(one, two, atol=self.exact, rtol=0)

    @pytest.mark.parametrize("pipeline", ["fastv", "lightkv"])
    def test_logits_that_a_caller_wishes_for_are_no_drafts(self, pipeline: str) -> None:
        """How many logits are wanted changes nothing of what is scored as prompt."""
        self.need("streaming")
        model, prompts = self.make_model(), self.pair[:1]
        inputs = self.make_inputs(model, prompts)
        found = []
        with self.session(model, prompts, pipeline):
            for wanted in (1, 3):
                out = self.generate(model, inputs, logits_to_keep=wanted)
                found.append(torch.stack(out.logits))
        torch.testing.assert_close(*found, atol=self.exact, rtol=0)

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
