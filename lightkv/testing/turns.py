"""Tests of `AdapterSuite` for batches of chats whose turns are unequally long."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightkv.core.errors import LayoutError
from lightkv.testing.adapters import BY_TOKEN, AdapterBench, Inputs, Prompt


class TurnTests(AdapterBench):
    """Part of `AdapterSuite`."""

    def test_later_turns_of_unequal_rows(self) -> None:
        """Rows answer as alone if all that is not cached yet is padded on its left, turn after turn."""
        self.need("unequal turns")
        if any(self.windows):
            pytest.skip("cannot: transformers counts padding as part of a sliding window")
        model = self.make_model()
        turns = [
            [Prompt(2, 1, 3, seed=1), Prompt(5, 1, 6, seed=2)],
            [Prompt(3, 0, 2, seed=7), Prompt(3, 0, 6, seed=8)],
            [Prompt(4, 0, 4, seed=9), Prompt(1, 0, 2, seed=10)],
        ]
        together = self._turns(model, turns)
        for row in range(2):
            alone = self._turns(model, [[rows[row]] for rows in turns])
            for found, wanted in zip(together, alone, strict=True):
                torch.testing.assert_close(found[row], wanted[0], atol=self.exact, rtol=0)
        with pytest.raises(LayoutError, match="not cached yet") as error:
            self._turns(model, turns, pad=False)
        assert error.value.field == "attention_mask"
        assert "left" in str(error.value.remedy)

    def _turns(
        self, model: nn.Module, turns: list[list[Prompt]], *, pad: bool = True
    ) -> list[torch.Tensor]:
        """Logits of each turn of a chat on one cache; `pad`: what is not cached, on its left."""
        found: list[torch.Tensor] = []
        with self.session(model, turns[0]):
            whole = call = self.make_inputs(model, turns[0])
            out = self.generate(model, call)
            for rows in turns[1:]:
                found.append(torch.stack(out.logits, dim=1))
                new = self.make_inputs(model, rows)
                whole = self.joined(self.extended(model, whole, self.answer(whole, out)), new)
                cache = out.past_key_values
                if pad:
                    whole = _padded_left(whole, self.cache_length(cache))
                call = self.later_call(model, whole, new)
                out = self.generate(model, call, past_key_values=cache)
        return [*found, torch.stack(out.logits, dim=1)]


def _padded_left(inputs: Inputs, cached: int) -> Inputs:
    """The padding behind the first `cached` positions, before everything else that stands there."""
    order = torch.sort(inputs["attention_mask"][:, cached:], dim=1, stable=True).indices
    out = dict(inputs)
    for name in BY_TOKEN:
        if name in inputs:
            rest = inputs[name][:, cached:]
            places = order if rest.dim() == 2 else order[..., None].expand_as(rest)
            out[name] = torch.cat([inputs[name][:, :cached], rest.gather(1, places)], dim=1)
    return out
