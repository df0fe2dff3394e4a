"""The tests of `AdapterSuite`; what they are made of is in `adapters.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from lightkv.core.errors import ConfigError, ModelError, SessionError
from lightkv.core.needs import needs_class_token
from lightkv.core.plugins import registry
from lightkv.core.run.report import RunReport
from lightkv.testing.adapters import Prompt, both_attentions
from lightkv.testing.caching import CacheSiteTests
from lightkv.testing.oracles import encoder_needs, on_cache, reaching, reads_next_layer, snapshot
from lightkv.testing.serving import ServingTests
from lightkv.testing.sessions import SessionTests

POLICIES = sorted(name for role, name in registry().components if role == "positions")


class Boom(Exception):
    """Raised inside a session by the tests."""


class AdapterSuite(ServingTests, CacheSiteTests, SessionTests):
    """The contract of an adapter."""

    # -- what is computed ------------------------------------------------------------------------

    @both_attentions
    @pytest.mark.parametrize("changes", [{"ratio": 0.0}, {"matcher": "keep-all"}])
    def test_identity(self, attention: str, changes: dict[str, Any]) -> None:
        self.check_identity(self.model_with(attention), "lightkv", self.schedule, changes)

    @both_attentions
    @pytest.mark.parametrize("pipeline", ["random", "fastv"])
    @pytest.mark.parametrize("count", [1, None], ids=["first", "all"])
    def test_drop_equals_mask(self, attention: str, pipeline: str, count: int | None) -> None:
        """Dropping with positions kept is the uncompressed model that cannot see what was dropped.

        Or, where `law` is `shorter`, that never had it from that layer on.
        """
        rows = self.batch[:count]
        model = self.model_with(attention)
        found, wanted = self.drop_and_mask(model, rows, pipeline, eager=attention == "eager")
        self.check_close(found, wanted)
        plain = self.logits(model, self.make_inputs(model, rows))
        assert (found - plain).abs().max() > self.least_effect, "dropping had no effect at all"

    @both_attentions
    @pytest.mark.parametrize("stages", [[(0, 0.5), (1, 0.5), (4, 0.9)], [(2, 0.999)]])
    def test_before_the_decoder_and_dropping_all(
        self, attention: str, stages: list[tuple[int, float]]
    ) -> None:
        """The same law where layer 0 is compressed already, and where no vision token is left."""
        model = self.model_with(attention)
        first = self.first_layer
        schedule = [{"after_layer": first + layer, "ratio": ratio} for layer, ratio in stages]
        matcher = {"name": "top-k", "rounding": "floor"}
        found, wanted = self.drop_and_mask(
            model,
            self.batch,
            "random",
            eager=attention == "eager",
            schedule=schedule,
            matcher=matcher,
        )
        self.check_close(found, wanted)

    @both_attentions
    @pytest.mark.parametrize("pipeline", ["lightkv", "lightkv-release"])
    def test_batch_equals_single(self, attention: str, pipeline: str) -> None:
        """Also with renumbered positions, which a row without images must not notice."""
        if pipeline in self.refused:
            pytest.skip(f"refused: {self.refused[pipeline]}")
        self.batch_and_alone(self.model_with(attention), pipeline)

    @pytest.mark.parametrize("pipeline", ["lightkv", "fastv"])
    def test_the_last_position_is_untouched(self, pipeline: str) -> None:
        """The next token is read off it, also where a prompt ends in its image."""
        self.need("image at the end")
        model = self.make_model()
        prompts = [replace(prompt, after=0) for prompt in self.batch if prompt.images]
        inputs, layers = self.make_inputs(model, prompts), self.decoder(model).layers
        layer = layers[int(self.schedule[0]["after_layer"])]  # type: ignore[index]
        plain = reaching(layer, lambda: self.call(model, inputs))
        with self.session(model, prompts, pipeline):
            squeezed = reaching(layer, lambda: self.call(model, inputs))
        assert squeezed.shape[1] < plain.shape[1]
        assert torch.equal(squeezed[:, -1], plain[:, -1])

    @pytest.mark.parametrize("policy", POLICIES)
    def test_batch_equals_single_under_every_position_policy(self, policy: str) -> None:
        """Also in a row with images of which the stages remove nothing while another row shrinks."""
        model, rows = self.make_model(), self.batch
        with self.session(model, rows, "random", trace=True) as session:
            self.logits(model, self.make_inputs(model, rows), max_new_tokens=1)
        layout: Any = session.last.layout
        patches = [int((~sample.tokens.separator).sum()) for sample in layout.samples]
        if not 0 < sorted(patches)[-2] < max(patches):
            pytest.skip("cannot: all rows of a batch hold equally many patches")
        # A share that is one token of the largest row is none of a row with fewer.
        ratio = 1 / max(patches)
        roles: dict[str, Any] = {
            "partitioner": {"name": "whole", "scope": "sample"},
            "positions": policy,
            "schedule": [{"after_layer": self.schedule[0]["after_layer"], "ratio": ratio}],
        }
        session = self.batch_and_alone(model, "tome", **roles)
        removed = [row.original - row.vision_tokens[-1] for row in session.last.samples]
        assert removed == [int(count == max(patches)) for count in patches]

    def test_decoding_goes_on_at_the_same_positions(self) -> None:
        """Generated tokens get the rotary angles that the uncompressed model gives them."""
        model, inputs = self.model_and_inputs(self.batch)
        with self.record(model, -1) as plain:
            self.generate(model, inputs)
        with self.session(model, self.batch), self.record(model, -1) as squeezed:
            self.generate(model, inputs)
        assert len(plain.rotary) == len(squeezed.rotary) == self.steps
        assert squeezed.rotary[0][0].shape[1] < plain.rotary[0][0].shape[1]
        for tables, same in zip(plain.rotary[1:], squeezed.rotary[1:], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(tables, same, strict=True))
        for ids, same_ids in zip(plain.position_ids, squeezed.position_ids, strict=True):
            assert torch.equal(ids, same_ids)

    def test_positions_policies(self) -> None:
        """Renumbering changes the result, a barycentre only where tokens merge."""
        model, inputs = self.model_and_inputs(self.batch)

        def logits(pipeline: str, policy: str) -> torch.Tensor:
            with self.session(model, self.batch, pipeline, positions=policy):
                return self.logits(model, inputs)

        kept, moved = logits("random", "keep"), logits("random", "renumber")
        self.check_close(logits("random", "barycentric"), kept)
        merged, mean = logits("lightkv", "keep"), logits("lightkv", "barycentric")
        contiguous = logits("random", "renumber-contiguous")
        with_images = [row for row, prompt in enumerate(self.batch) if prompt.images]
        for row in with_images:
            assert (kept[row] - moved[row]).abs().max() > self.exact
            assert (merged[row] - mean[row]).abs().max() > self.exact
            assert (moved[row, 1:] - contiguous[row, 1:]).abs().max() > self.exact
        self.check_close(moved[:, 0], contiguous[:, 0])

    # -- what is left in the cache -----------------------------------------------------------------

    @pytest.mark.parametrize("count", [1, None], ids=["first", "all"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_cache_truth(self, dtype: torch.dtype, count: int | None) -> None:
        """The bytes that the report claims are those of the tensors; low precision stays finite."""
        rows = self.batch[:count]
        model = self.make_model(dtype=dtype)
        with self.session(model, rows, "lightkv") as session, torch.no_grad():
            out = self.call(model, self.make_inputs(model, rows), use_cache=True)
        assert bool(torch.isfinite(out.logits).all())
        cache, report = self.cached(out.past_key_values), session.last
        held = tuple(key.nbytes + value.nbytes for key, value in cache)
        assert report.cache_bytes == held
        first, middle = int(self.schedule[0]["after_layer"]), int(self.schedule[1]["after_layer"])
        without = {*self.recurrent, *self.sharing}
        entries = [n for n in range(len(held)) if n not in without]
        if not self.windows:
            stretches = [[held[n] for n in entries if n < first]]
            stretches.append([held[n] for n in entries if first <= n < middle])
            stretches.append([held[n] for n in entries if n >= middle])
            assert stretches[2][0] < stretches[1][0] < stretches[0][0]
        for layer in without:
            assert {sample.kv_bytes[layer] for sample in report.samples} == {0}
        shapes = {layer: cache[layer][0].shape for layer in entries}
        _check_samples(report, shapes, held, self.windows)

    def test_generation_keeps_per_layer_lengths(self) -> None:
        model = self.make_model()
        with self.session(model, self.batch) as session:
            out = self.generate(model, self.make_inputs(model, self.batch))
        report, cache = session.last, self.cached(out.past_key_values)
        for layer, held in enumerate(report.cache_bytes or ()):
            key, value = cache[layer]
            if layer in {*self.recurrent, *self.sharing}:
                assert key.nbytes + value.nbytes == held
                continue
            per_token = (key.nbytes + value.nbytes) // key.shape[2]
            expected = held // per_token + self.steps - 1
            if self.windows and (window := self.windows[layer]) is not None:
                expected = min(expected, window - 1)
            assert key.shape[2] == expected
        assert report.decode_steps == self.steps - 1

    # -- what is left in the model -----------------------------------------------------------------

    def test_restores_everything(self) -> None:
        model, inputs = self.model_and_inputs(self.batch)
        _ = registry().adapters  # importing them may register attention functions once
        plain, before = self.logits(model, inputs), snapshot(model)
        with self.session(model, self.batch):
            self.generate(model, inputs)
        assert snapshot(model) == before
        with pytest.raises(Boom), self.session(model, self.batch):
            raise Boom
        assert snapshot(model) == before
        assert torch.equal(self.logits(model, inputs), plain)

    @pytest.mark.parametrize("where", [1, -1])
    @pytest.mark.parametrize("inside", ["layer", "self_attn", "mlp"])
    def test_survives_an_error_inside_forward(self, where: int, inside: str) -> None:
        """A failed pass is not reported, and neither the session nor the model is harmed by it."""
        model, inputs = self.model_and_inputs(self.batch)
        plain, before = self.logits(model, inputs), snapshot(model)
        layers: Any = self.decoder(model).layers
        target = layers[where] if inside == "layer" else self.part(layers[where], inside)

        def fail(*_: Any) -> None:
            raise Boom

        with self.session(model, self.batch) as session:
            wanted = self.logits(model, inputs)
            handle = target.register_forward_pre_hook(fail)
            with pytest.raises(Boom):
                self.generate(model, inputs)
            handle.remove()
            assert torch.equal(self.logits(model, inputs), wanted)
            assert len(session.reports) == 2
        assert snapshot(model) == before
        assert torch.equal(self.logits(model, inputs), plain)

    # -- how it is used ----------------------------------------------------------------------------

    @pytest.mark.parametrize("pipeline", sorted(registry().presets))
    def test_every_preset_runs(self, pipeline: str) -> None:
        """Presets that read a class token are refused by name where the encoder has none."""
        model = self.make_model()
        if on_cache(pipeline):
            self.need_cache_site(model)
        if reads_next_layer(pipeline) and "next layer" in self.cannot:
            schedule = self.schedule_of(pipeline)
            with pytest.raises(ModelError, match="next_last_row"):
                self.session(model, self.batch, pipeline, schedule=schedule).__enter__()
            return
        needs = encoder_needs(pipeline)
        if needs_class_token(needs) and not self.class_token:
            before = snapshot(model)
            schedule = self.schedule_of(pipeline)
            # Where no stage may stand before the decoder, merging before the projector is the error.
            late = (ConfigError,) if self.first_layer else ()
            with pytest.raises((ModelError, *late), match=r"vision encoder|enters the projector"):
                self.session(model, self.batch, pipeline, schedule=schedule).__enter__()
            assert snapshot(model) == before
            return
        schedule = self.schedule_of(pipeline)
        if pipeline in self.refused:
            with (
                self.session(model, self.batch, pipeline, schedule=schedule),
                pytest.raises(ConfigError, match=self.refused[pipeline]),
            ):
                self.generate(model, self.make_inputs(model, self.batch))
            return
        with self.session(model, self.batch, pipeline, schedule=schedule) as session:
            out = self.generate(model, self.make_inputs(model, self.batch))
        assert bool(torch.isfinite(torch.stack(out.logits)).all())
        assert session.last.retention < 1.0
        for sample, prompt in zip(session.last.samples, self.batch, strict=True):
            assert bool(sample.original) == bool(prompt.images)

    def test_every_run_is_reported(self) -> None:
        model, inputs = self.model_and_inputs(self.batch)
        with self.session(model, self.batch, "random") as session:
            first, second = (self.logits(model, inputs) for _ in range(2))
        assert [report.run for report in session.reports] == [0, 1]
        # The noise differs from run to run of a session, and repeats in the next session.
        assert not torch.equal(first, second)
        with self.session(model, self.batch, "random"):
            assert torch.equal(self.logits(model, inputs), first)

    def test_prompts_without_images(self) -> None:
        prompts = (Prompt(4, 0, 3, seed=1), Prompt(2, 0, 2, seed=2))
        model, inputs = self.model_and_inputs(prompts)
        plain = self.generate(model, inputs)
        with self.session(model, prompts) as session:
            same = self.generate(model, inputs)
        assert torch.equal(torch.stack(plain.logits), torch.stack(same.logits))
        assert session.last.retention == 1.0
        assert [sample.original for sample in session.last.samples] == [0, 0]

    def test_beams_share_the_selection_of_their_prompt(self) -> None:
        """The score of the best beam is that of the masked model on the same tokens."""
        self.need("beams")
        masked, scores, session = self.beam_scores(self.make_model(), "random")
        assert len(session.last.samples) == masked.numel()
        # Rows of one prompt agree only if all its beams dropped the same tokens.
        self.check_close(masked, masked[:, :1].expand(masked.shape))
        torch.testing.assert_close(masked[:, 0], scores, atol=1e-4, rtol=0)

    def test_sampling_repeats_under_a_seed(self) -> None:
        self.need("sampling")
        model, inputs = self.model_and_inputs(self.batch[:1])

        def sample() -> torch.Tensor:
            torch.manual_seed(5)
            out = self.generate(model, inputs, do_sample=True, top_k=0, num_return_sequences=3)
            return self.new_tokens(out)

        with self.session(model, self.batch[:1]) as session:
            first, second = sample(), sample()
        assert torch.equal(first, second)
        assert first.shape == (3, self.steps)
        assert len(session.last.samples) == 3

    def test_two_models_at_once(self) -> None:
        one, other = self.make_model(), self.make_model("eager")
        inputs = self.make_inputs(one, self.batch)
        with self.session(one, self.batch, "lightkv"):
            alone = self.logits(one, inputs)
        with self.session(one, self.batch, "lightkv") as first:
            with self.session(other, self.batch, "fastv") as second:
                together = self.logits(one, inputs)
                self.generate(other, self.make_inputs(other, self.batch))
            assert (len(first.reports), len(second.reports)) == (1, 1)
        assert torch.equal(alone, together)

    def test_the_same_model_twice_is_refused(self) -> None:
        model = self.make_model()
        before = snapshot(model)
        with self.session(model, self.batch):
            attached = snapshot(model)
            with pytest.raises(SessionError, match="already compressed"):
                self.session(model, self.batch, "fastv").__enter__()
            assert snapshot(model) == attached
        assert snapshot(model) == before

    @pytest.mark.parametrize("pipeline", ["lightkv", "fastv"])
    def test_gradients_flow(self, pipeline: str) -> None:
        model = self.make_model()
        with self.session(model, self.batch, pipeline):
            out = self.call(model, self.make_inputs(model, self.batch))
        out.logits[:, -1].float().logsumexp(-1).sum().backward()
        found = [p.grad for p in self.decoder(model).parameters() if p.grad is not None]
        assert all(bool(torch.isfinite(grad).all()) for grad in found)
        first: Any = self.decoder(model).layers[0]  # type: ignore[index]
        assert any(bool((p.grad != 0).any()) for p in first.parameters() if p.grad is not None)


def _check_samples(
    report: RunReport,
    shapes: dict[int, torch.Size],
    held: tuple[int, ...],
    windows: Sequence[int | None],
) -> None:
    """Bytes of the samples are text plus vision tokens of each layer, padding left out."""
    for layer, shape in shapes.items():
        per_token = held[layer] // (shape[0] * shape[2])
        longest = 0
        for sample in report.samples:
            tokens = sample.text_tokens + sample.vision_tokens[layer]
            if windows and (window := windows[layer]) is not None:
                tokens = min(tokens, window - 1)
            assert sample.kv_bytes[layer] == tokens * per_token
            longest = max(longest, tokens)
        assert longest == shape[2]
    for sample in report.samples:
        if sample.original:
            share = sum(sample.vision_tokens) / len(held) / sample.original
            assert abs(sample.retention - share) < 1e-9
