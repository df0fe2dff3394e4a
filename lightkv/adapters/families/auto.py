"""Models of which no family knows: grids of sizes that fit the placeholders, else a strip for each run.

Asked last, of models whose class follows the common pattern: the decoder, the placeholders and the sizes
of the pictures are found by the names that most classes share. A warning says which it took, because
only a family knows in which order a model's tokens come.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from lightkv.adapters.hf import contact
from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.anatomy import (
    BEHIND,
    find_decoder,
    find_inputs,
    is_multimodal,
    misfit,
    placeholder_ids,
)
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.guesses import Guess, divided, first_fitting, strips
from lightkv.adapters.pictures.placing import Pictures, Placeholders
from lightkv.core.errors import LightKVError, LightKVWarning, ModelError, SessionError, short
from lightkv.core.run.adapter import model_type
from lightkv.core.run.refusal import GRID, REFUSED, STRIP, Refusal, Standing

GRIDS = ("grid_thw", "grid_hw")
"""Sizes in patches, behind the modality's name."""
SHAPES = ("spatial_shapes", "target_sizes")
"""Sizes of images in patches."""
MERGES = ("spatial_merge_size", "merge_kernel_size", "downsample_factor", "pooling_kernel_size")
"""What configs call the side of the block of patches that becomes one token."""
TOKENS = ("image_seq_length", "mm_tokens_per_image")
"""What configs call the tokens of an image of fixed size."""
RESAMPLERS = ("perceiver_config", "qformer_config", "projector_patch_to_query_dict")
"""Config fields of models whose tokens are latents without a place."""
TRIED = frozenset[str]()
"""Types that tests/adapters/test_auto.py runs."""


class AutoAdapter(HFAdapter):
    """A multimodal model with the usual names."""

    name = "auto"
    models = "others with the usual names, with a warning"
    geometry = "either"
    causal = False  # nobody says that it is: masks are read, not assumed

    def matches(self, model: nn.Module) -> bool:
        return is_multimodal(getattr(model, "config", None))

    def refusal(self, model: nn.Module) -> Refusal | None:
        if not self.matches(model):
            return None
        found = misfit(model) or self._unserved(model)
        return found if isinstance(found, Refusal) else None

    def _unserved(self, model: nn.Module) -> Refusal | LightKVError | None:
        """What a session would raise; as a refusal where that would be no error of lightkv's."""
        try:
            self.check(model)
            self._check_contact(model)
            self.shape(getattr(model, "config", None))
        except LightKVError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a stranger's class may fail in any way
            told = f"{type(error).__name__}: {short(error)}"
            return Refusal(f"its sizes or layers cannot be read ({told})", BEHIND)
        return None

    def standing(self, model_type: str) -> Standing | None:
        if model_type not in contact.multimodal_types():
            return None
        try:
            model = contact.empty_model(model_type)
        except Exception as error:  # noqa: BLE001 - default configs may fail in any way
            return _unbuilt(error)
        found = misfit(model) or self._unserved(model)
        if isinstance(found, LightKVError):
            found = Refusal(found.message, found.remedy or "")
        if found is not None:
            return Standing(REFUSED, found.reason, found.remedy, tried=False)
        how, why = expected(self.input_module(model), model.config)
        return Standing(how, why, guessed=True, tried=model_type in TRIED)

    # -- parts --------------------------------------------------------------------------------

    def decoder(self, model: nn.Module) -> nn.Module:
        found = find_decoder(model)
        if found is None:
            raise self._lacks(model, "decoder with a list called `layers`")
        return found

    def input_module(self, model: nn.Module) -> nn.Module:
        found = find_inputs(model)
        if found is None:
            raise self._lacks(model, "forward that takes ids and pixels")
        return found

    @staticmethod
    def _lacks(model: nn.Module, what: str) -> ModelError:
        return ModelError(
            f"{type(model).__name__} has no {what}",
            field="model",
            remedy="write an adapter that says where it is (docs/writing-an-adapter.md)",
        )

    def blocks(self, inputs: ModelInputs) -> torch.Tensor | None:
        raise SessionError(
            "a picture on a filled cache may be a block whose tokens see one another, and only a "
            "family can say so",
            field="adapter",
            value=self.name,
            remedy="begin a new sequence, or write an adapter (docs/writing-an-adapter.md)",
        )

    # -- pictures -----------------------------------------------------------------------------

    def pictures(self, model: nn.Module, inputs: ModelInputs) -> Sequence[Pictures]:
        config: Any = model.config
        kinds, told = [], []
        for modality, (field, token) in placeholder_ids(config).items():
            here = inputs.placeholders(token)
            if not here.any():
                continue
            fitting = first_fitting(modality, here, guesses(config, inputs, modality, here))
            source, pictures = fitting or ("nothing that fits", strips(modality, here))
            kinds.append(Pictures(modality, here, pictures))
            shape = f"grids of {source}" if fitting else "one strip for each run, no sizes fit"
            told.append(f"{modality} tokens are those of {field}, {shape}")
        if told:
            decoder = type(self.decoder(model)).__name__
            warnings.warn(
                f"no family knows the model type {model_type(model)!r}, so its parts were found by "
                f"their names: the decoder is {decoder}; {'; '.join(told)}. Windows are regions of "
                "the picture only if that is so (docs/models.md)",
                LightKVWarning,
                stacklevel=2,
            )
        return kinds


def guesses(config: Any, inputs: ModelInputs, modality: str, here: Placeholders) -> Iterator[Guess]:
    """What the processor's outputs and the config say of the pictures, the surest first."""
    vision = getattr(config, "vision_config", None)
    for name in [f"{modality}_{ending}" for ending in GRIDS]:
        yield from _merged(inputs, modality, name, 1, config)
    if modality != "image":
        return
    for name in SHAPES:
        yield from _merged(inputs, modality, name, 1, config)
    patch = getattr(vision, "patch_size", None)
    if isinstance(patch, int):
        yield from _merged(inputs, modality, "image_sizes", patch, config)
    side = fixed_side(config)
    if side:
        yield Guess(f"{side} × {side}", [(side, side)] * (int(here.sum()) // side**2), sure=False)


def _merged(
    inputs: ModelInputs, modality: str, name: str, patch: int, config: Any
) -> Iterator[Guess]:
    """Sizes that were given under a name, divided by each block of patches that may be merged."""
    if inputs.optional(modality, name) is None:
        return
    sizes = inputs.sizes(modality, name)
    told = list(merges(config))
    for merge in [*told, *(side for side in (1, 2, 3, 4) if side not in told)]:
        step = patch * merge
        source = name if step == 1 else f"{name} / {step}"
        yield Guess(source, divided(sizes, step), sure=merge in told)


def merges(config: Any) -> Iterator[int]:
    """Sides of merged blocks that a config names."""
    for part in (getattr(config, "vision_config", None), config):
        for name in MERGES:
            value = getattr(part, name, None)
            value = value[0] if isinstance(value, list | tuple) and value else value
            if isinstance(value, int):
                yield value


def fixed_side(config: Any) -> int | None:
    """Tokens along a side of images of fixed size, None where there is no such square.

    Tokens must be whole blocks of the tower's patches: a resampler may have a square number of latents.
    """
    vision = getattr(config, "vision_config", None)
    if vision is None or any(getattr(config, name, None) for name in RESAMPLERS):
        return None
    size, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if not isinstance(size, int) or not isinstance(patch, int):
        return None
    patches = size // patch
    for name in TOKENS:
        count = getattr(config, name, None)
        side = math.isqrt(count) if isinstance(count, int) and count > 0 else 0
        if side and side**2 == count and patches % side == 0:
            return side
    return None


def expected(module: nn.Module, config: Any) -> tuple[str, str]:
    """The geometry that models of a class probably get, and from what."""
    taken = contact.taken_by(module)
    names = [f"image_{ending}" for ending in GRIDS] + [*SHAPES, "image_sizes"]
    found = next((name for name in names if name in taken), None)
    if found is not None:
        return GRID, f"grids of {found}, where they fit the placeholders"
    side = fixed_side(config)
    if side:
        return GRID, f"squares of {side} × {side}, where they fit the placeholders"
    return STRIP, "a strip for each run of placeholders"


def _unbuilt(error: Exception) -> Standing:
    """Of a type of which no empty model can be made, for want of a package or of sizes."""
    text = " ".join(str(error).split()).partition(". ")[0]
    if isinstance(error, ImportError):
        return Standing(
            REFUSED, f"transformers cannot make it here: {text}", "install it", tried=False
        )
    return Standing(
        REFUSED,
        f"no model can be made of its default config ({type(error).__name__}: {text[:120]})",
        "try a checkpoint of it: what its class lacks is told when a session begins",
        tried=False,
    )
