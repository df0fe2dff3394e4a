"""The contract of an adapter, as a pytest class for any model family.

    class TestMine(AdapterSuite):
        def make_model(self, attn_implementation="sdpa", dtype=torch.float32): ...
        def make_inputs(self, model, prompts): ...

Use a tiny model with random weights and at least six decoder layers; the suite runs in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import nn

from lightkv.core.errors import SessionError
from lightkv.core.modality import MODALITIES
from lightkv.core.plugins import get_preset
from lightkv.core.run.report import RunReport
from lightkv.core.run.session import Session, compress
from lightkv.testing.copies import copied
from lightkv.testing.oracles import (
    Recorder,
    causal_mask,
    encoder_needs,
    joined,
    masked_layers,
    on_cache,
    shortened_layers,
    stored_by_layer,
    windowed,
)

Inputs = dict[str, Any]
BY_TOKEN = (
    "input_ids",
    "inputs_embeds",
    "attention_mask",
    "token_type_ids",
    "mm_token_type_ids",
    "moe_mm_token_type_ids",
)
"""Inputs with an entry for each position of the prompt."""
both_attentions = pytest.mark.parametrize("attention", ["eager", "sdpa"])


@dataclass(frozen=True)
class Prompt:
    """One prompt: text tokens, images, text tokens. Equal prompts must give equal inputs.

    Attributes:
        before, after: text tokens around the images.
        images: how many.
        seed: of ids and pixels.
    """

    before: int = 3
    images: int = 1
    after: int = 5
    seed: int = 0


MIXED = (Prompt(2, 1, 3, seed=1), Prompt(5, 2, 6, seed=2), Prompt(4, 0, 2, seed=3))
"""Different lengths, different numbers of images, one without."""

PAIR = (Prompt(2, 1, 3, seed=1), Prompt(5, 1, 6, seed=2))
"""An image each and different lengths of text."""


class AdapterBench:
    """What a family supplies, and the runs that the contract is made of.

    Class attributes:
        schedule: stages of all runs; at least two, none before layer 1.
        first_layer: layers that the family needs to run before the first stage.
        windows: sliding window of each layer, None where it has none; empty if no layer slides.
        law: what a compressed run equals. `masked`: the uncompressed model that cannot see what was
            dropped. `shorter`: the plain layers on the tokens that are left, for decoders with layers
            that masks do not reach. Both are the same where all layers are attention.
        recurrent: layers that keep a state instead of keys and values.
        sharing: layers, the last ones, that keep nothing and read keys and values of others.
        exact: largest float32 difference between two ways to compute the same thing.
        batch: prompts that are run together; at least one with an image.
        beam_prompts: prompts of the tests that repeat rows.
        modality: what the placeholders of the prompts stand for.
        class_token: whether the adapter offers a vision encoder with a class token.
        cannot: what the family cannot do without lightkv either, or lightkv refuses → why. The tests
            of it are skipped with the reason. There are "beams" and "sampling" (several sequences
            of one prompt), "later image" (in a turn on a filled cache), "unequal turns" (in a
            batch), "cache objects" (of the caller; also "cropping", "quantised cache", "offloaded
            cache", "refusing copies"),
            "cache site" (stages on the cache; windows imply it), "assisted" (decoding from drafts),
            "assistant" (a model that makes them), "streaming", "gradient checkpointing", "next
            layer" (reading its attention), "embeddings" (instead of ids, with images),
            "placeholders" (in the ids), "image at the end" (a prompt without text behind its
            image), and the names of attention implementations.
        refused: presets that are refused on prompts of the modality → what the error says.
        pair: prompts of two rows with an image each, for conversations.
        outside_error: what a compressed cache raises when it goes on after its session.
    """

    schedule: ClassVar[Sequence[dict[str, Any]]] = (
        {"after_layer": 2, "ratio": 0.5, "windows": 2},
        {"after_layer": 4, "ratio": 0.5, "windows": 1},
    )
    first_layer: ClassVar[int] = 0
    windows: ClassVar[Sequence[int | None]] = ()
    law: ClassVar[Literal["masked", "shorter"]] = "masked"
    recurrent: ClassVar[Sequence[int]] = ()
    sharing: ClassVar[Sequence[int]] = ()
    exact: ClassVar[float] = 1e-5
    steps: ClassVar[int] = 4
    batch: ClassVar[tuple[Prompt, ...]] = MIXED
    beam_prompts: ClassVar[Sequence[Prompt]] = MIXED[:2]
    modality: ClassVar[str] = "image"
    class_token: ClassVar[bool] = False
    cannot: ClassVar[dict[str, str]] = {}
    refused: ClassVar[dict[str, str]] = {}
    pair: ClassVar[tuple[Prompt, Prompt]] = PAIR
    outside_error: ClassVar[type[Exception] | tuple[type[Exception], ...]] = SessionError

    @property
    def least_effect(self) -> float:
        """Least difference that dropping must make, or a test of it would prove nothing."""
        return 10 * self.exact

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "make_model" in vars(cls):  # an inherited one would hide that of a class beside it
            cls.make_model = copied(cls.make_model)  # type: ignore[method-assign]

    # -- supplied by the family ------------------------------------------------------------------

    def make_model(
        self, attn_implementation: str = "sdpa", dtype: torch.dtype = torch.float32
    ) -> nn.Module:
        """A tiny model in evaluation mode, the same weights at every call.

        It runs once for the same arguments; each test gets a copy, which takes half as long.
        """
        raise NotImplementedError

    def make_inputs(self, model: nn.Module, prompts: Sequence[Prompt]) -> Inputs:
        """What the processor would give for a left-padded batch, `attention_mask` included."""
        raise NotImplementedError

    def vision_mask(
        self, model: nn.Module, inputs: Inputs, prompts: Sequence[Prompt]
    ) -> torch.Tensor:
        """`[B, N]` true at the vision tokens."""
        config: Any = model.config
        placeholder = getattr(config, f"{self.modality}_token_id")
        return torch.as_tensor(inputs["input_ids"] == placeholder)

    def options(self, model: nn.Module, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Arguments that `compress` needs for this family (adapter, layout)."""
        return {}

    def extended(self, model: nn.Module, inputs: Inputs, tokens: torch.Tensor) -> Inputs:
        """The inputs with text tokens `[B, T]` appended, for one pass over everything."""
        ids = torch.cat([inputs["input_ids"], tokens], dim=1)
        return {**inputs, "input_ids": ids, "attention_mask": self.longer_mask(inputs, tokens)}

    def joined(self, first: Inputs, later: Inputs) -> Inputs:
        """One prompt from two: tokens side by side, the pixels one after the other."""
        out = dict(first)
        for name, value in later.items():
            axis = 1 if name in BY_TOKEN else 0
            out[name] = joined(first[name], value, axis) if name in first else value
        return out

    def later_call(self, model: nn.Module, whole: Inputs, later: Inputs) -> Inputs:
        """What `generate` takes for a turn on a filled cache.

        Args:
            model: the model; the call is made inside the session.
            whole: the conversation so far and the new turn, all pixels row after row.
            later: the new turn alone.
        """
        return {name: (whole if name in BY_TOKEN else later)[name] for name in later}

    def decoder(self, model: nn.Module) -> nn.Module:
        """The module that owns `layers`."""
        finder: Any = model.get_decoder
        return finder()  # type: ignore[no-any-return]

    def own_masks(self, model: nn.Module, inputs: Inputs) -> Sequence[torch.Tensor] | None:
        """Per layer `[B or 1, N, N]` true where the uncompressed model lets a row see a column.

        None is causal. Padding need not be left out. The default knows windows only.
        """
        if not self.windows:
            return None
        length = inputs["attention_mask"].shape[1]
        return [windowed(causal_mask(length), window)[None] for window in self.windows]

    def call(self, model: nn.Module, inputs: Inputs, **changes: Any) -> Any:
        """One forward pass; `changes` are arguments beside the inputs (`use_cache`, `labels`, …).

        `position_ids` are left out where the outer forward has no such argument.
        """
        return model(**inputs, **changes)

    def valid(self, model: nn.Module, inputs: Inputs) -> torch.Tensor:
        """`[B, N]` false at padding of what the decoder gets."""
        return torch.as_tensor(inputs["attention_mask"]).bool()

    def part(self, layer: nn.Module, name: str) -> nn.Module:
        """The submodule of a decoder layer that is called `self_attn` or `mlp` elsewhere."""
        return getattr(layer, name)  # type: ignore[no-any-return]

    def cached(self, cache: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Key and value of each layer, from a cache that is of the kind the model itself makes.

        Of recurrent layers the tensors of their state; an empty one where there is one only. Those of
        layers that keep nothing are empty.
        """
        assert type(cache).__module__.startswith("transformers.")
        nothing = torch.empty(0, 0, 0, 0)
        found = [
            _state_of(layer) if number in self.recurrent else (layer.keys, layer.values)
            for number, layer in enumerate(cache.layers)
        ]
        held = [pair for number, pair in enumerate(found) if number not in self.sharing]
        return [*held, *[(nothing, nothing)] * len(self.sharing)]

    def cache_of(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Any:
        """A cache with key and value of each layer, of the kind the model itself makes."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (key, value) in enumerate(pairs):
            cache.update(key, value, layer)
        return cache

    def cache_length(self, cache: Any) -> int:
        """Positions that layer 0 was fed."""
        return int(cache.get_seq_length())

    def spoiled(self, model: nn.Module, inputs: Inputs, prompts: Sequence[Prompt]) -> Inputs:
        """The inputs with text in place of the last placeholder of the first row."""
        ids = inputs["input_ids"].clone()
        ids[0, int(self.vision_mask(model, inputs, prompts)[0].nonzero().max())] = 9
        return {**inputs, "input_ids": ids}

    def record(self, model: nn.Module, layer: int) -> AbstractContextManager[Recorder]:
        """Record the positions that reach the decoder and the rotary angles of one layer."""
        decoder: Any = self.decoder(model)
        return Recorder.on(decoder, decoder.layers[layer])

    # -- runs ------------------------------------------------------------------------------------

    def need(self, capability: str) -> None:
        """Skip the running test, with the reason, where the family lacks a capability."""
        if capability in self.cannot:
            pytest.skip(f"cannot: {self.cannot[capability]}")

    def check_close(self, found: Any, wanted: Any) -> None:
        """Two ways to compute the same thing differ by no more than `exact`."""
        torch.testing.assert_close(found, wanted, atol=self.exact, rtol=0)

    def model_with(self, attention: str) -> Any:
        """The model with an attention implementation; skips where the family lacks it."""
        self.need(attention)
        return self.make_model(attention)

    def model_and_inputs(
        self, prompts: Sequence[Prompt], attention: str | None = None
    ) -> tuple[Any, Inputs]:
        """The model, as `model_with` if an attention implementation is named, and its inputs."""
        model = self.make_model() if attention is None else self.model_with(attention)
        return model, self.make_inputs(model, prompts)

    @staticmethod
    def longer_mask(inputs: Inputs, tokens: torch.Tensor) -> torch.Tensor:
        """The attention mask with ones for the appended tokens."""
        mask = inputs["attention_mask"]
        return torch.cat([mask, mask.new_ones(tokens.shape)], dim=1)

    def session(
        self, model: nn.Module, prompts: Sequence[Prompt], pipeline: Any = "lightkv", **changes: Any
    ) -> AbstractContextManager[Session]:
        """`compress` with the suite's schedule and the family's options."""
        options = {"schedule": list(self.schedule), **self.options(model, prompts), **changes}
        return compress(model, pipeline, **options)

    def schedule_of(self, pipeline: str) -> Any:
        """The suite's schedule; one stage as early as can be for presets that read the encoder.

        Presets on the cache keep their own: the suite's stages stand between layers.
        """
        if on_cache(pipeline):
            return get_preset(pipeline).model_dump()["schedule"]
        if encoder_needs(pipeline):
            return [{"after_layer": self.first_layer, "ratio": 0.5, "windows": 2}]
        return list(self.schedule)

    def generate(self, model: nn.Module, inputs: Inputs, **changes: Any) -> Any:
        """Greedy generation of `steps` tokens with logits; never stops early."""
        config: Any = model.config
        ids = (getattr(config, f"{kind}_token_id", None) for kind in MODALITIES)
        arguments = {
            # A generated placeholder would be one too many where everything is run in one pass.
            "suppress_tokens": [token for token in ids if token is not None] or None,
            "max_new_tokens": self.steps,
            "do_sample": False,
            "eos_token_id": None,
            "pad_token_id": 0,
            "return_dict_in_generate": True,
            "output_logits": True,
            **changes,
        }
        run: Any = model.generate
        return run(**inputs, **arguments)

    def logits(self, model: nn.Module, inputs: Inputs, **changes: Any) -> torch.Tensor:
        """`[B, steps, vocabulary]` logits of a greedy generation."""
        return torch.stack(self.generate(model, inputs, **changes).logits, dim=1)

    def answer(self, inputs: Inputs, out: Any) -> torch.Tensor:
        """`[B, T]` all tokens that `generate` added to `inputs`."""
        prompt = inputs["attention_mask"].shape[1] if "input_ids" in inputs else 0
        return torch.as_tensor(out.sequences[:, prompt:])

    def new_tokens(self, out: Any) -> torch.Tensor:
        """`[B, steps]` generated tokens."""
        return torch.as_tensor(out.sequences[:, -self.steps :])

    def masked_logits(
        self,
        model: nn.Module,
        prompts: Sequence[Prompt],
        tokens: torch.Tensor,
        positions: torch.Tensor,
        session: Session,
        *,
        eager: bool,
    ) -> torch.Tensor:
        """`[B, T, vocabulary]` that the plain model gives under the family's law.

        What a stage on the cache dropped is hidden from the generated tokens `tokens` only.
        Call it after the session, which must have traced its last run with these prompts as rows.
        `tokens` `[B, T]` were generated; `positions` were recorded.
        """
        inputs = self.make_inputs(model, prompts)
        vision, prompt_valid = self.vision_mask(model, inputs, prompts), self.valid(model, inputs)
        whole = self.extended(model, inputs, tokens[:, :-1])
        valid = self.valid(model, whole)
        own = self.own_masks(model, whole)
        length, prompt = valid.shape[1], prompt_valid.shape[1]
        layers: Any = self.decoder(model).layers
        seen, stored = stored_by_layer(vision, prompt_valid, session.last)
        masks = []
        for layer in range(len(layers)):
            base = causal_mask(length)[None] if own is None else own[layer]
            base = base.expand(len(prompts), -1, -1).clone()
            base[:, :prompt, :prompt] &= seen[layer][:, None, :]
            base[:, prompt:, :prompt] &= stored[layer][:, None, :]
            masks.append(base)
        positions = positions[..., :length]
        if self.law == "masked":
            with self._masked(layers, masks, valid, eager=eager), torch.no_grad():
                out = self.call(model, whole, position_ids=positions, use_cache=False)
            return torch.as_tensor(out.logits[:, prompt - 1 :])
        found = []
        for row, one in enumerate(prompts):
            real = valid[row]
            alone = self.make_inputs(model, [one])
            alone = self.extended(model, alone, tokens[row : row + 1, :-1])
            alive = [nn.functional.pad(s[row], (0, length - prompt), value=True) for s in seen]
            own_masks = [mask[row : row + 1, real][:, :, real] for mask in masks]
            with self.under_law(model, own_masks, [a[real] for a in alive], alone, eager=eager):
                places = positions[..., row : row + 1, real]
                out = self.call(model, alone, position_ids=places, use_cache=False)
            found.append(out.logits[:, -tokens.shape[1] :])
        return torch.cat(found)

    @contextmanager
    def under_law(
        self,
        model: nn.Module,
        masks: Sequence[torch.Tensor],
        alive: Sequence[torch.Tensor],
        inputs: Inputs,
        *,
        eager: bool,
    ) -> Iterator[None]:
        """The plain model, without gradients, as the family's law says it for one row without padding.

        Args:
            model: the model.
            masks: per layer `[1, N, N]` what its tokens see.
            alive: per layer `[N]` the tokens that it is given.
            inputs: of the row.
            eager: whether attention takes float masks.
        """
        layers: Any = self.decoder(model).layers
        if self.law == "masked":
            law = self._masked(layers, masks, self.valid(model, inputs), eager=eager)
        else:
            law = shortened_layers(layers, masks, alive, eager=eager, recurrent=self.recurrent)
        with law, torch.no_grad():
            yield

    def _masked(
        self,
        layers: Sequence[nn.Module],
        masks: Sequence[torch.Tensor],
        valid: torch.Tensor,
        *,
        eager: bool,
    ) -> AbstractContextManager[None]:
        """`masked_layers` of the layers that masks reach."""
        reached = [number for number in range(len(layers)) if number not in self.recurrent]
        return masked_layers(
            [layers[n] for n in reached], [masks[n] for n in reached], valid, eager=eager
        )

    def drop_and_mask(
        self,
        model: nn.Module,
        prompts: Sequence[Prompt],
        pipeline: Any,
        *,
        eager: bool,
        **changes: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of a compressed generation, and of the uncompressed model under masks."""
        out, positions, session = self.traced(model, prompts, pipeline, **changes)
        tokens = self.new_tokens(out)
        reference = self.masked_logits(model, prompts, tokens, positions, session, eager=eager)
        return torch.stack(out.logits, dim=1), reference

    def traced(
        self,
        model: nn.Module,
        prompts: Sequence[Prompt],
        pipeline: Any,
        *,
        beams: int = 1,
        **changes: Any,
    ) -> tuple[Any, torch.Tensor, Session]:
        """What a compressed generation returned, the positions of all its passes, and its session."""
        inputs = self.make_inputs(model, prompts)
        search = {"num_beams": beams, "output_scores": True} if beams > 1 else {}
        with (
            self.session(model, prompts, pipeline, trace=True, **changes) as session,
            self.record(model, 0) as recorder,
        ):
            out = self.generate(model, inputs, **search)
        return out, recorder.all_position_ids(len(prompts) * beams), session

    def beam_scores(
        self, model: nn.Module, pipeline: Any, **changes: Any
    ) -> tuple[torch.Tensor, torch.Tensor, Session]:
        """`[B, 3]` scores that the best of three beams has in the model under masks, in place of each.

        Also the scores `[B]` of the run, and its session.
        """
        prompts, beams = self.beam_prompts, 3
        out, positions, session = self.traced(model, prompts, pipeline, beams=beams, **changes)
        rows = [prompt for prompt in prompts for _ in range(beams)]
        every = self.new_tokens(out).repeat_interleave(beams, dim=0)
        logits = self.masked_logits(model, rows, every, positions, session, eager=False)
        chosen = logits.float().log_softmax(-1).gather(2, every[..., None])[..., 0].mean(dim=1)
        return chosen.view(len(prompts), beams), out.sequences_scores.float(), session

    def check_identity(
        self, model: nn.Module, pipeline: str, schedule: Any, changes: dict[str, Any]
    ) -> None:
        """Stages of ratio 0, and a matcher that keeps everything (`changes`), change no bit."""
        inputs = self.make_inputs(model, self.batch)
        schedule = [{**stage, "ratio": changes.get("ratio", 0.5)} for stage in schedule]
        roles = {key: value for key, value in changes.items() if key != "ratio"}
        plain = self.generate(model, inputs)
        with self.session(model, self.batch, pipeline, schedule=schedule, **roles) as session:
            same = self.generate(model, inputs)
        assert torch.equal(torch.stack(plain.logits), torch.stack(same.logits))
        assert torch.equal(plain.sequences, same.sequences)
        assert session.last.retention == 1.0

    def batch_and_alone(self, model: nn.Module, pipeline: Any, **changes: Any) -> Session:
        """Each prompt of the batch gives alone what it gives there; the session of the batch."""
        with self.session(model, self.batch, pipeline, **changes) as session:
            batch = self.logits(model, self.make_inputs(model, self.batch))
        for row, prompt in enumerate(self.batch):
            with self.session(model, [prompt], pipeline, **changes) as single:
                alone = self.logits(model, self.make_inputs(model, [prompt]))
            self.check_close(batch[row], alone[0])
            assert single.last.samples[0] == session.last.samples[row]
        return session

    def converse(
        self,
        model: nn.Module,
        prompts: Sequence[Prompt],
        later: Prompt,
        pipeline: Any,
        *,
        eager: bool,
        outside: bool = False,
        **changes: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, Session]:
        """A second turn `later`, the same in each row, on the cache that the first turn left.

        With `outside` the first turn runs before the session, uncompressed.

        Returns its logits, those of the uncompressed model that is given each row's conversation in
        one pass, without padding, and cannot see what either turn dropped; and the session.
        """
        told = (prompts, [later] * len(prompts))
        turns = [self.make_inputs(model, rows) for rows in told]
        plain = self.generate(model, turns[0]) if outside else None
        with self.session(model, prompts, pipeline, trace=True, **changes) as session:
            first = plain or self.generate(model, turns[0])
            answer, rows = self.new_tokens(first), []
            for row, prompt in enumerate(prompts):
                start, more = (self.make_inputs(model, [each]) for each in (prompt, later))
                rows.append(self.joined(self.extended(model, start, answer[row : row + 1]), more))
            whole = self.joined(self.extended(model, turns[0], answer), turns[1])
            pixels = [{k: v for k, v in row.items() if k not in BY_TOKEN} for row in rows]
            whole |= reduce(partial(AdapterBench.joined, self), pixels)
            call = self.later_call(model, whole, turns[1])
            second = self.generate(model, call, past_key_values=first.past_key_values)
        visions = [self.vision_mask(model, *turn) for turn in zip(turns, told, strict=True)]
        fed, wanted = self.new_tokens(second)[:, :-1], []
        for row, inputs in enumerate(rows):
            inputs = self.extended(model, inputs, fed[row : row + 1])
            masks, alive = self._masks_of_turns(model, session, turns, visions, row, inputs)
            with self.under_law(model, masks, alive, inputs, eager=eager):
                out = self.call(model, inputs, use_cache=False)
            wanted.append(out.logits[:, -self.steps :])
        return torch.stack(second.logits, dim=1), torch.cat(wanted), session

    def _masks_of_turns(
        self,
        model: nn.Module,
        session: Session,
        turns: Sequence[Inputs],
        visions: Sequence[torch.Tensor],
        row: int,
        inputs: Inputs,
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Per layer `[1, N, N]` what a conversation sees in which each turn sees what is left of others.

        And `[N]` which of its tokens are left there.
        `inputs` is the conversation of a row in one pass; `visions` are the vision tokens of its turns.
        """
        length, own = self.valid(model, inputs).shape[1], self.own_masks(model, inputs)
        count = session.pipeline.num_layers
        whole = [causal_mask(length)[None]] * count if own is None else own
        masks = [mask[:1].clone() for mask in whole]
        alive = [torch.ones(length, dtype=torch.bool) for _ in masks]
        # The latest reports are those of the turns with images.
        reports, found = list(session.reports), dict[int, RunReport]()
        for number in reversed(range(len(turns))):
            if reports and bool(visions[number].any()):
                found[number] = reports.pop()
        end = 0
        for number, (turn, vision) in enumerate(zip(turns, visions, strict=True)):
            valid = self.valid(model, turn)
            real, start = int(valid[row].sum()), end
            end = start + real + self.steps
            if number not in found:
                continue
            layout: Any = found[number].layout
            # `generate` feeds the last answered token, which no pass has seen yet, with the new turn.
            lead = layout.length - vision.shape[1]
            vision = nn.functional.pad(vision, (lead, 0))
            valid = nn.functional.pad(valid, (lead, 0), value=True)
            start, real = start - lead, real + lead
            seen, stored = stored_by_layer(vision, valid, found[number])
            for layer, mask in enumerate(masks):
                alive[layer][start : start + real] &= seen[layer][row, -real:]
                mask[:, : start + real, start : start + real] &= seen[layer][row, -real:]
                mask[:, start + real :, start : start + real] &= stored[layer][row, -real:]
        return masks, alive


def _state_of(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The two tensors of a recurrent layer's state."""
    conv, recurrent = layer.conv_states[0], layer.recurrent_states[0]
    return conv, conv.new_empty(0) if recurrent is None else recurrent
