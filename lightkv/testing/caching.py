"""Tests of `AdapterSuite` for stages on the cache: keys and values compressed after each layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightkv.core.errors import ModelError
from lightkv.core.run.report import RunReport
from lightkv.testing.adapters import AdapterBench, Prompt, both_attentions

CACHE = [{"site": "cache", "ratio": 0.5}]
EVERYTHING = [{"site": "cache", "scope": "all", "ratio": 0.4}]
BOTH = [{"after_layer": 2, "ratio": 0.3}, {"site": "cache", "ratio": 0.5}]
NOISE = {"partitioner": {"name": "whole", "scope": "sample"}, "scorer": "noise", "matcher": "top-k"}


class CacheSiteTests(AdapterBench):
    """Part of `AdapterSuite`."""

    def need_cache_site(self, model: nn.Module) -> None:
        """Skip where the family's caches cannot be compressed, after checking that this is said."""
        if not self.refuses_cache_site:
            return
        with (
            pytest.raises(ModelError) as error,
            self.session(model, self.pair, "imgrand", schedule=CACHE),
        ):
            pass
        assert error.value.remedy
        pytest.skip(f"cannot: {error.value.message}")

    @property
    def refuses_cache_site(self) -> bool:
        """Whether a stage on the cache is refused for this family."""
        return any(self.windows) or "cache site" in self.cannot

    @both_attentions
    @pytest.mark.parametrize("changes", [{"ratio": 0.0}, {"matcher": "keep-all"}])
    def test_cache_site_identity(self, attention: str, changes: dict[str, Any]) -> None:
        model = self.model_with(attention)
        self.need_cache_site(model)
        self.check_identity(model, "tome-cache", CACHE, changes)

    @both_attentions
    @pytest.mark.parametrize("schedule", [CACHE, EVERYTHING, BOTH])
    def test_dropped_entries_are_masked_entries(self, attention: str, schedule: Any) -> None:
        """An uncompressed prefill, then decoding that cannot see what each layer dropped."""
        model = self.model_with(attention)
        self.need_cache_site(model)
        inputs = self.make_inputs(model, self.batch)
        schedule = self._above_first_layer(schedule)
        out, positions, session = self.traced(model, self.batch, NOISE, schedule=schedule)
        found, tokens = torch.stack(out.logits, dim=1), self.new_tokens(out)
        eager = attention == "eager"
        wanted = self.masked_logits(model, self.batch, tokens, positions, session, eager=eager)
        self.check_close(found, wanted)
        plain = self.logits(model, inputs)
        if "after_layer" not in schedule[0]:
            self.check_close(found[:, 0], plain[:, 0])
        assert (found - plain).abs().max() > self.least_effect, "dropping had no effect at all"
        self._check_stored(model, out.past_key_values, session.last)

    def test_cache_site_beams(self) -> None:
        """The score of the best beam is that of the masked model on the same tokens."""
        self.need("beams")
        model = self.make_model()
        self.need_cache_site(model)
        masked, scores, _ = self.beam_scores(model, NOISE, schedule=CACHE)
        torch.testing.assert_close(masked[:, 0], scores, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("pipeline", ["tome-cache", "elastic-cache", "rand"])
    def test_cache_site_batch_equals_single(self, pipeline: str) -> None:
        model = self.make_model()
        self.need_cache_site(model)
        scope = "vision" if pipeline == "tome-cache" else "all"
        options = {"schedule": [{"site": "cache", "scope": scope, "ratio": 0.7}]}
        self.batch_and_alone(model, pipeline, **options)

    @pytest.mark.parametrize("schedule", [CACHE, BOTH])
    @pytest.mark.parametrize("later", [Prompt(3, 0, 4, seed=7), Prompt(2, 1, 3, seed=7)])
    def test_cache_site_second_turn(self, later: Prompt, schedule: Any) -> None:
        """It sees in each layer what that layer kept; a new image is compressed as the first was."""
        if later.images:
            self.need("later image")
        model = self.make_model()
        self.need_cache_site(model)
        schedule = self._above_first_layer(schedule)
        found, wanted, session = self.converse(
            model, self.pair, later, NOISE, eager=False, schedule=schedule
        )
        self.check_close(found, wanted)
        assert len(session.reports) == 1 + later.images

    def _above_first_layer(self, schedule: Any) -> Any:
        """The schedule with its stage between layers where the family allows one."""
        if all(stage.get("after_layer", 9) >= self.first_layer for stage in schedule):
            return schedule
        return [{**schedule[0], "after_layer": self.first_layer}, *schedule[1:]]

    def _check_stored(self, model: nn.Module, cache: Any, report: RunReport) -> None:
        """Bytes and entries that the report claims are those of the tensors."""
        for layer, (key, value) in enumerate(self.cached(cache)):
            if layer in self.recurrent:
                assert not any(sample.kv_bytes[layer] for sample in report.samples)
                continue
            per_entry = (key.nbytes + value.nbytes) // key.shape[2]
            entries = key.shape[2] - self.steps + 1
            assert report.cache_bytes is not None
            assert report.cache_bytes[layer] == per_entry * entries
            real = max(sample.kv_bytes[layer] for sample in report.samples)
            assert real * key.shape[0] == report.cache_bytes[layer]
