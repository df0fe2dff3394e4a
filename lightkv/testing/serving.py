"""Tests of `AdapterSuite` for what stands around a prefill: later turns, other caches, drafts."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from threading import Thread
from typing import Any

import pytest
import torch
from torch import nn

from lightkv.adapters.hf.contact import RUNS_HOOKS_AGAIN
from lightkv.core.errors import LayoutError, LightKVError, ModelError, SessionError
from lightkv.testing.adapters import BY_TOKEN, AdapterBench, Inputs, Prompt, both_attentions

TEXT, IMAGE = Prompt(3, 0, 4, seed=7), Prompt(2, 1, 3, seed=7)
"""What may come next."""


class ServingTests(AdapterBench):
    """Part of `AdapterSuite`."""

    # -- later turns on the cache of the first -----------------------------------------------------

    @both_attentions
    def test_second_turn_of_text(self, attention: str) -> None:
        """Its tokens see, in each layer, what that layer kept of the image."""
        model = self.model_with(attention)
        eager = attention == "eager"
        found, wanted, session = self.converse(model, self.pair, TEXT, "random", eager=eager)
        self.check_close(found, wanted)
        assert len(session.reports) == 1

    @both_attentions
    @pytest.mark.parametrize("outside", [False, True])
    def test_second_turn_with_a_new_image(self, attention: str, outside: bool) -> None:
        """It is compressed as the first was, and sees what is left of that.

        Also where the first turn ran without a session: the padding in its cache stays hidden.
        """
        self.need("later image")
        model = self.model_with(attention)
        eager = attention == "eager"
        found, wanted, session = self.converse(
            model, self.pair, IMAGE, "random", eager=eager, outside=outside
        )
        self.check_close(found, wanted)
        assert len(session.reports) == (1 if outside else 2)
        for report in session.reports:
            counts = [sample.vision_tokens for sample in report.samples]
            assert all(count[-1] < count[0] for count in counts)

    def test_a_cache_made_outside_goes_on_as_it_was(self) -> None:
        """Text on an uncompressed cache is not compressed; nothing changes."""
        model = self.make_model()
        first = self.generate(model, self.make_inputs(model, self.pair))
        call = self._next_turn(model, first, self.pair)
        cache = copy.deepcopy(first.past_key_values)
        plain = self.generate(model, call, past_key_values=cache)
        with self.session(model, self.pair):
            same = self.generate(model, call, past_key_values=first.past_key_values)
        self.check_close(torch.stack(same.logits), torch.stack(plain.logits))

    def test_a_compressed_cache_belongs_to_its_session(self) -> None:
        """Another session refuses it, and outside it takes no more entries."""
        model, inputs = self.model_and_inputs(self.pair[:1])
        with self.session(model, self.pair[:1]):
            first = self.generate(model, inputs)
            call = self._next_turn(model, first, self.pair[:1])
        with pytest.raises(SessionError) as elsewhere, self.session(model, self.pair[:1]):
            self.generate(model, call, past_key_values=first.past_key_values)
        assert elsewhere.value.field == "past_key_values"
        assert elsewhere.value.remedy
        with pytest.raises(self.outside_error) as outside:
            self.generate(model, call, past_key_values=first.past_key_values)
        if isinstance(outside.value, SessionError):
            assert "session" in str(outside.value)
            assert outside.value.field == "past_key_values"
            assert outside.value.remedy

    def test_a_copy_of_a_compressed_cache_is_refused(self) -> None:
        self.need("refusing copies")
        model = self.make_model()
        with self.session(model, self.pair[:1]):
            first = self.generate(model, self.make_inputs(model, self.pair[:1]))
            call = self._next_turn(model, first, self.pair[:1])
            copies = copy.deepcopy(first.past_key_values)
            with pytest.raises(SessionError) as copied:
                self.generate(model, call, past_key_values=copies)
        assert copied.value.field == "past_key_values"
        assert copied.value.remedy

    def test_a_cache_of_another_model_is_refused(self) -> None:
        model, inputs = self.model_and_inputs(self.pair[:1])
        made = self.cached(self.generate(model, inputs).past_key_values)
        first = next(layer for layer in range(len(made)) if layer not in self.recurrent)
        keys, layers = made[first][0], len(made)
        other = {
            "layers": (layers - 1, keys),
            "width": (layers, keys.repeat(1, 1, 1, 2)),
            "rows": (layers, keys.repeat(2, 1, 1, 1)),
        }
        for count, tensor in other.values():
            cache = self.cache_of([(tensor, tensor)] * count)
            with pytest.raises(SessionError) as error, self.session(model, self.pair[:1]):
                self._step(model, cache)
            assert error.value.field == "past_key_values"
            assert error.value.value is not None

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
                self.check_close(found[row], wanted[0])
        with pytest.raises(LayoutError, match="not cached yet") as error:
            self._turns(model, turns, pad=False)
        assert error.value.field == "attention_mask"
        assert "left" in str(error.value.remedy)

    # -- caches ------------------------------------------------------------------------------------

    def test_dynamic_cache_of_the_caller(self) -> None:
        self.need("cache objects")
        model, inputs = self.model_and_inputs(self.batch)
        with self.session(model, self.batch):
            plain = self.generate(model, inputs)
            own = self.generate(model, inputs, past_key_values=self._cache(model))
        assert torch.equal(torch.stack(plain.logits), torch.stack(own.logits))
        lengths = [
            [key.shape[2] for key, _ in self.cached(out.past_key_values)] for out in (plain, own)
        ]
        assert lengths[0] == lengths[1]

    def test_quantised_cache(self) -> None:
        """Compression compounds: its bytes shrink as its entries do, and little is lost."""
        self.need("quantised cache")
        pytest.importorskip("optimum.quanto")
        model, inputs = self.model_and_inputs(self.pair)
        settings = {"backend": "quanto", "nbits": 4, "residual_length": 8, "q_group_size": 16}
        options = {"cache_implementation": "quantized", "cache_config": settings}
        if any(self.windows):
            with pytest.raises(ValueError, match="only full attention layers"):
                self.generate(model, inputs, **options)
            pytest.skip("cannot: transformers quantises caches of full attention layers only")
        runs = [self.generate(model, inputs), self.generate(model, inputs, **options)]
        with self.session(model, self.pair):
            runs += [self.generate(model, inputs), self.generate(model, inputs, **options)]
        layers = [run.past_key_values.layers for run in runs]
        for exact, plain, kept, small in zip(*layers, strict=True):
            lengths = exact.get_seq_length(), kept.get_seq_length()
            prompt = [length - self.steps + 1 for length in lengths]
            assert small.get_seq_length() == lengths[1]
            assert quantised_bytes(plain) * prompt[1] == quantised_bytes(small) * prompt[0]
            assert quantised_bytes(small) < kept.keys.nbytes
        assert layers[3][-1].get_seq_length() < layers[3][0].get_seq_length()
        # The prefill attends to exact keys; what follows loses about as much as without lightkv.
        lost = [(runs[n].logits[1] - runs[n + 1].logits[1]).abs().max() for n in (0, 2)]
        assert torch.equal(runs[2].logits[0], runs[3].logits[0])
        assert 0 < lost[1] < 3 * lost[0]

    def test_offloaded_cache(self) -> None:
        self.need("offloaded cache")
        if not torch.cuda.is_available():
            model = self.make_model()
            inputs = self.make_inputs(model, self.pair)
            with pytest.raises((AssertionError, RuntimeError), match=r"CUDA|accelerator"):
                self.generate(model, inputs, cache_implementation="offloaded")
            pytest.skip("transformers moves an offloaded cache with CUDA streams only")
        model = self.make_model().cuda()
        inputs = {k: v.cuda() for k, v in self.make_inputs(model, self.pair).items()}
        with self.session(model, self.pair):
            plain = self.generate(model, inputs)
            moved = self.generate(model, inputs, cache_implementation="offloaded")
        assert torch.equal(torch.stack(plain.logits), torch.stack(moved.logits))

    def test_a_static_cache_is_refused(self) -> None:
        """All its layers have one length, and what is in it cannot be taken out."""
        self.need("cache objects")
        model, inputs = self.model_and_inputs(self.pair)
        with self.session(model, self.pair), pytest.raises(SessionError) as error:
            self.generate(model, inputs, cache_implementation="static")
        assert error.value.field == "past_key_values"
        assert error.value.remedy

    def test_a_cropped_cache_goes_on_where_it_was_cut(self) -> None:
        """Tokens that the caller takes back are gone in every layer."""
        self.need("cropping")
        prompts = self.pair[:1]
        model, inputs = self.model_and_inputs(prompts)
        with self.session(model, prompts, "fastv"):
            found = []
            for extra in (2, 0):
                cache = self._cache(model)
                cache.activate_past_recording()
                count = self.steps - 2 + extra
                first = self.generate(model, inputs, past_key_values=cache, max_new_tokens=count)
                cache.crop(-extra)
                first.sequences = first.sequences[:, : first.sequences.shape[1] - extra]
                call = self._next_turn(model, first, prompts)
                out = self.generate(model, call, past_key_values=cache)
                found.append(torch.stack(out.logits))
            self.check_close(*found)
            # All text since the image, of both turns, and two tokens more.
            vision = self.vision_mask(model, inputs, prompts)[0]
            text = call["attention_mask"].shape[1] - 1 - int(vision.nonzero().max())
            cache.crop(-(text + self.steps - 1 + 2))
            with pytest.raises(SessionError, match="reaches into an image") as error:
                self._step(model, cache)
            assert error.value.field == "past_key_values"

    # -- generation --------------------------------------------------------------------------------

    @pytest.mark.parametrize("pipeline", ["lightkv", "fastv"])
    @pytest.mark.parametrize("draft", ["lookup", "assistant"])
    def test_assisted_decoding(self, pipeline: str, draft: str) -> None:
        """Drafts are checked in one pass and rejected ones cropped; neither leaves a trace."""
        self.need("assisted")
        if draft == "assistant":
            self.need("assistant")
        prompts = self.pair[:1]
        model, inputs = self.model_and_inputs(prompts)
        few = self._few_tokens(model)
        if draft == "lookup":
            options: dict[str, Any] = {"prompt_lookup_num_tokens": 2, "max_matching_ngram_size": 1}
        else:
            options = {"assistant_model": (helper := Assistant(model)).model}
        with self.session(model, prompts, pipeline) as session:
            plain = self.generate(model, inputs, suppress_tokens=few, max_new_tokens=12)
            if draft == "assistant":
                helper.guess(plain.sequences[0])
            fed = FedTokens(self.decoder(model))
            fast = self.generate(model, inputs, suppress_tokens=few, max_new_tokens=12, **options)
            fed.close()
        assert torch.equal(plain.sequences, fast.sequences)
        self.check_close(torch.stack(plain.logits), torch.stack(fast.logits))
        if draft == "assistant":
            assert fed.passes < 12, "no draft was ever accepted"
            assert fed.tokens > fast.sequences.shape[1] - 1, "no draft was ever rejected"
        assert len({report.retention for report in session.reports}) == 1

    def test_a_compressed_assistant(self) -> None:
        """Each model in a session of its own. transformers shows images to the first one only."""
        self.need("assisted")
        self.need("assistant")
        model = self.make_model()
        helper, prompts = Assistant(model).model, self.pair[:1]
        inputs, few = self.make_inputs(model, prompts), self._few_tokens(model)
        options = {"suppress_tokens": few, "max_new_tokens": 12}
        with self.session(model, prompts):
            plain = self.generate(model, inputs, **options)
            with self.session(helper, prompts, "fastv"):
                fast = self.generate(model, inputs, assistant_model=helper, **options)
        assert torch.equal(plain.sequences, fast.sequences)

    def test_streaming(self) -> None:
        """From a thread, as servers do."""
        self.need("streaming")
        from transformers import TextIteratorStreamer

        prompts = self.pair[:1]
        model, inputs = self.model_and_inputs(prompts)
        streamer = TextIteratorStreamer(Numbers(), skip_prompt="input_ids" in inputs, timeout=60)
        with self.session(model, prompts):
            whole = self.generate(model, inputs)
            thread = Thread(
                target=self.generate, args=(model, inputs), kwargs={"streamer": streamer}
            )
            thread.start()
            text = "".join(streamer)
            thread.join()
        assert text.split() == [str(int(token)) for token in self.new_tokens(whole)[0]]

    # -- training ----------------------------------------------------------------------------------

    def test_gradient_checkpointing(self) -> None:
        """The loss of the text after the images has the same gradients.

        Before transformers 5.23 the session says that it cannot.
        """
        self.need("gradient checkpointing")
        if RUNS_HOOKS_AGAIN:
            model = self.make_model().train()
            setter: Any = model
            setter.gradient_checkpointing_enable({"use_reentrant": False})
            with self.session(model, self.pair), pytest.raises(ModelError) as error:
                model(**self.make_inputs(model, self.pair), use_cache=False)
            assert error.value.field == "gradient_checkpointing"
            return
        found = []
        for checkpointing in (False, True):
            model = self.make_model().train()
            if checkpointing:
                plain: Any = model
                plain.gradient_checkpointing_enable({"use_reentrant": False})
            with self.session(model, self.pair):
                out = model(**self.make_inputs(model, self.pair), logits_to_keep=3, use_cache=False)
                out.logits.float().square().sum().backward()
            layers: Any = self.decoder(model).layers
            last = layers[-1]
            found.append([p.grad for p in last.parameters() if p.grad is not None])
        assert found[0]
        torch.testing.assert_close(*found)

    def test_labels_are_refused(self) -> None:
        model, inputs = self.model_and_inputs(self.pair)
        labels = inputs["attention_mask"]
        with self.session(model, self.pair), pytest.raises(SessionError) as error:
            self.call(model, inputs, labels=labels)
        assert error.value.field == "labels"

    # -- inputs that do not fit ----------------------------------------------------------------------

    def test_placeholders_that_do_not_match_the_pixels(self) -> None:
        """One too few, or one picture too few: lightkv says so before transformers does."""
        self.need("placeholders")
        model, inputs = self.model_and_inputs(self.pair[:1])
        two = self.make_inputs(model, [replace(self.pair[0], images=2)])
        fewer = {name: (two if name in BY_TOKEN else inputs)[name] for name in inputs}
        spoiled = self.spoiled(model, inputs, self.pair[:1])
        calls = (
            partial(self.call, model, spoiled),
            partial(self.generate, model, spoiled),
            # `generate` itself would look for the grids of the missing picture first.
            partial(self.call, model, fewer),
        )
        with self.session(model, self.pair[:1]) as session:
            for call in calls:
                with pytest.raises(LightKVError) as error:
                    call()
                assert error.value.field
                assert error.value.remedy
        assert not session.reports

    def test_embeddings_need_ids_or_spans(self) -> None:
        self.need("embeddings")
        prompts = self.pair[:1]
        model, inputs = self.model_and_inputs(prompts)
        embeddings = model.get_input_embeddings()(inputs.pop("input_ids"))
        with self.session(model, prompts), pytest.raises(LightKVError) as error:
            model(inputs_embeds=embeddings, **inputs)
        assert error.value.field == "input_ids"
        assert "layout" in str(error.value.remedy)

    # -- parts -------------------------------------------------------------------------------------

    def _next_turn(
        self, model: nn.Module, first: Any, prompts: Any, later: Prompt = TEXT
    ) -> Inputs:
        """Arguments for a turn of text after `first`, what `generate` returned for `prompts`."""
        start = self.make_inputs(model, prompts)
        more = self.make_inputs(model, [later] * len(prompts))
        whole = self.joined(self.extended(model, start, self.answer(start, first)), more)
        return self.later_call(model, whole, more)

    def _cache(self, model: nn.Module) -> Any:
        from transformers import DynamicCache

        config: Any = model.config
        return DynamicCache(config=config.get_text_config(decoder=True))

    def _step(self, model: nn.Module, cache: Any) -> None:
        inputs = {"input_ids": torch.tensor([[20]])}
        places = torch.tensor([[self.cache_length(cache)]])
        with torch.no_grad():
            self.call(model, inputs, position_ids=places, past_key_values=cache)

    def _few_tokens(self, model: nn.Module) -> list[int]:
        """What to suppress so that generated tokens repeat and look-ups find something."""
        config: Any = model.config
        return [t for t in range(config.get_text_config().vocab_size) if not 30 <= t < 36]

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


# -- in place of a tokenizer and an assistant, and how tests count ----------------------------------


class Numbers:
    """A tokenizer that writes ids."""

    def decode(self, tokens: Any, **_: Any) -> str:
        return "".join(f"{int(token)} " for token in tokens)


class FedTokens:
    """Counts the passes of a decoder and the tokens fed to it."""

    def __init__(self, decoder: nn.Module) -> None:
        self.passes = self.tokens = 0
        self._handle = decoder.layers[0].register_forward_pre_hook(self._count)  # type: ignore[index,union-attr]

    def _count(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        self.passes += 1
        self.tokens += args[0].shape[1]

    def close(self) -> None:
        self._handle.remove()


class Assistant:
    """A copy of a model that drafts three tokens at once; told what to guess, it errs now and then."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = copy.deepcopy(model)
        settings: Any = self.model.generation_config
        settings.update(num_assistant_tokens=3, assistant_confidence_threshold=0.0)
        settings.num_assistant_tokens_schedule = "constant"

    def guess(self, tokens: torch.Tensor) -> None:
        """Draft `[N]` the tokens of a whole sequence, every third one wrong."""

        def overrule(module: nn.Module, args: Any, output: Any) -> Any:
            place = output.past_key_values.get_seq_length()
            if place < len(tokens):
                output.logits[:, -1] = 0
                other = 30 if tokens[place] != 30 else 31
                output.logits[:, -1, tokens[place] if place % 3 else other] = 99
            return output

        self.model.register_forward_hook(overrule)


def quantised_bytes(layer: Any) -> int:
    """Bytes of the quantised keys of a cache layer (quanto)."""
    keys = layer._quantized_keys
    return sum(int(part.nbytes) for part in (keys._data._data, keys._scale, keys._shift))
