"""InternVL2's and EVE's own code, made to run on transformers 5.

Both were written for transformers 4.37 and older. What they lack today is little, and it is added to the
one model that is given: no class is changed, and nothing here is called unless a user calls it.

    from lightkv.checkpoints.original_code import mend

    model = mend(model)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from lightkv.adapters.families.internvl_chat import fill_tables
from lightkv.adapters.remote.sentinels import SENTINEL
from lightkv.core.errors import ModelError


def mend(model: nn.Module) -> nn.Module:
    """Make the own code of InternVL2 or EVE generate under transformers 5; gives the same model back.

    EVE: `generate` keeps the prompt and the images in its first pass, leaves the images and the mask of
    the prompt's ids out of later ones (padding beside images is refused by the adapter), and gives each
    beam all images of its row.
    InternVL2: the rotary tables, which `from_pretrained` leaves uninitialised, are computed by the
    code's own method, and its language model gets the `generate` that transformers 5 no longer gives.
    Safe to call twice.

    Raises:
        ModelError: another model.
    """
    for kind in type(model).__mro__:
        if kind.__name__ in MENDED:
            MENDED[kind.__name__](model)
            return model
    raise ModelError(
        f"nothing is known that {type(model).__name__} lacks",
        field="model",
        value=type(model).__name__,
        remedy=f"one of {', '.join(MENDED)} in their own code; other models generate by themselves",
    )


def filled(cache: Any) -> Any:
    """A cache with entries in it; None for an empty one, as transformers 5 makes before a prefill."""
    length = getattr(cache, "get_seq_length", None)
    return None if length is not None and not length() else cache


# -- EVE -----------------------------------------------------------------------------------------


def _mend_eve(model: Any) -> None:
    model.prepare_inputs_for_generation = eve_inputs
    model._expand_inputs_for_generation = partial(eve_rows, model)


def eve_rows(
    model: Any,
    expand_size: int = 1,
    is_encoder_decoder: bool = False,
    input_ids: torch.Tensor | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor | None, dict[str, Any]]:
    """Rows repeated for beams and samples, each with all its images in order.

    Repeated one by one, as transformers does it, two images of a row would become one of each for two.
    """
    images = arguments.pop("images", None)
    rows, out = type(model)._expand_inputs_for_generation(
        model,
        expand_size=expand_size,
        is_encoder_decoder=is_encoder_decoder,
        input_ids=input_ids,
        **arguments,
    )
    if images is None or input_ids is None:
        return rows, out
    counts = (input_ids == SENTINEL).sum(1).tolist()
    if sum(counts) != len(images):  # the adapter says what is wrong
        return rows, {**out, "images": images}
    own = [one for one in images.split(counts) for _ in range(expand_size)]
    return rows, {**out, "images": torch.cat(own)}


def eve_inputs(
    input_ids: torch.Tensor,
    past_key_values: Any = None,
    attention_mask: torch.Tensor | None = None,
    inputs_embeds: torch.Tensor | None = None,
    images: torch.Tensor | None = None,
    cache: Any = None,
    **options: Any,
) -> dict[str, Any]:
    """Arguments of EVE's forward in a step of `generate`.

    The cache that transformers hands over is called `cache` from 5.24 on; EVE knows the old name.
    """
    cache = past_key_values if cache is None else cache
    inputs: dict[str, Any] = {
        "past_key_values": cache,
        "use_cache": options.get("use_cache"),
        "attention_mask": attention_mask,
    }
    if filled(cache) is None:
        first = {"input_ids": input_ids} if inputs_embeds is None else {}
        return {**inputs, **first, "inputs_embeds": inputs_embeds, "images": images}
    if images is not None:
        # The mask counts sentinels, not what stands for them. All tokens beside images are real.
        inputs["attention_mask"] = None
    new = options.get("next_sequence_length")
    if new is not None and new != 1:
        raise ModelError(
            "EVE's own code generates one token after the other: it takes neither a later turn nor "
            "drafts on a filled cache",
            field="input_ids",
            value=new,
            remedy="generate from the whole conversation without a cache, or call the model by hand",
        )
    return {**inputs, "input_ids": input_ids[:, -1:]}


# -- InternVL2 -----------------------------------------------------------------------------------


def _mend_internvl(model: Any) -> None:
    language = model.language_model
    for layer in language.model.layers:
        rotary = getattr(getattr(layer, "attention", None), "rotary_emb", None)
        if rotary is not None:  # of InternLM2; other decoders are those of transformers
            fill_tables(rotary, rotary.max_seq_len_cached)
    if not hasattr(language, "generate"):
        language.__class__ = generating(type(language))


def generating(kind: type) -> type:
    """The class of InternLM2's own code with `generate`, its tuples of keys and values passed on."""
    from transformers import GenerationConfig, GenerationMixin

    class Generating(kind, GenerationMixin):  # type: ignore[misc,valid-type]
        main_input_name = "input_ids"

        @classmethod
        def _supports_default_dynamic_cache(cls) -> bool:
            return False  # no cache object is made: the code takes tuples

        @property
        def generation_config(self) -> Any:
            if "_own_generation_config" not in vars(self):
                self._own_generation_config = GenerationConfig.from_model_config(self.config)
            return self._own_generation_config

        @generation_config.setter
        def generation_config(self, value: Any) -> None:
            self._own_generation_config = value

        def prepare_inputs_for_generation(
            self,
            input_ids: torch.Tensor,
            past_key_values: Any = None,
            attention_mask: torch.Tensor | None = None,
            inputs_embeds: torch.Tensor | None = None,
            cache: Any = None,
            use_cache: bool | None = None,
            **_: Any,
        ) -> dict[str, Any]:
            past = filled(past_key_values if cache is None else cache)
            first = past is None and inputs_embeds is not None
            given = (
                {"inputs_embeds": inputs_embeds}
                if first
                else {"input_ids": input_ids if past is None else input_ids[:, -1:]}
            )
            if attention_mask is not None:
                places = (attention_mask.long().cumsum(-1) - 1).masked_fill(attention_mask == 0, 1)
                new = next(iter(given.values())).shape[1]  # type: ignore[union-attr]
                given["position_ids"] = places[:, -new:]
            return {
                **given,
                "past_key_values": past,
                "use_cache": use_cache,
                "attention_mask": attention_mask,
            }

        def _update_model_kwargs_for_generation(
            self, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
        ) -> dict[str, Any]:
            out: dict[str, Any] = super()._update_model_kwargs_for_generation(
                outputs, model_kwargs, *args, **kwargs
            )
            # From 5.24 on it looks for `cache` in the output, which this code does not know.
            out["past_key_values"] = outputs.past_key_values
            return out

        @staticmethod
        def _reorder_cache(past: Any, rows: torch.Tensor) -> Any:
            return tuple(
                tuple(part.index_select(0, rows.to(part.device)) for part in layer)
                for layer in past
            )

    Generating.__name__, Generating.__qualname__ = kind.__name__, kind.__qualname__
    Generating.__module__ = kind.__module__
    return Generating


MENDED: dict[str, Callable[[Any], None]] = {
    "EVELlamaForCausalLM": _mend_eve,
    "InternVLChatModel": _mend_internvl,
}
