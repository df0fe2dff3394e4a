"""Reading a forward pass's arguments: vision placeholders, padding, cache."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lightkv.adapters.hf.cache_checks import cache_padded_inside
from lightkv.adapters.hf.contact import OLDER_PIXELS, OTHER_PIXELS, PIXELS, VISION_ARGUMENTS
from lightkv.core.errors import LayoutError, ModelError, SessionError


@dataclass(frozen=True)
class ModelInputs:
    """Arguments of the multimodal forward pass, whatever way they were passed.

    Attributes:
        arguments: every argument by name.
        input_ids: `[B, Q]` on the host, or None.
        pads: left padding of each row.
        has_vision: whether this pass carries images or audio, or their features.
        features: modality → arguments of the last call that made its features.
    """

    arguments: dict[str, Any]
    input_ids: npt.NDArray[np.int64] | None
    pads: tuple[int, ...]
    has_vision: bool
    features: dict[str, dict[str, Any]] = field(default_factory=dict)

    def geometry(self, modality: str, name: str) -> Any:
        """An argument of the feature call (`image_sizes`, `image_grid_thw`, …), however it came.

        Raises:
            ModelError: the features were computed where nobody could see their geometry.
        """
        value = self.optional(modality, name)
        if value is not None:
            return value
        raise ModelError(
            f"the geometry of the {modality} features is unknown: they were computed outside the "
            "session",
            field=name,
            remedy=f"pass {name} and pixels to generate inside the session, or give the spans: "
            "compress(model, …, layout=VisionLayout.from_spans(…))",
        )

    def optional(self, modality: str, name: str) -> Any:
        """The same, or None where nobody gave it."""
        if self.arguments.get(name) is not None:
            return self.arguments[name]
        if self.arguments.get(PIXELS[modality]) is not None:
            # The features of these pixels are still to be made: what was caught is of an earlier run.
            return None
        return self.features.get(modality, {}).get(name)

    def sizes(self, modality: str, name: str) -> list[tuple[int, ...]]:
        """The rows of a geometry `[n, m]` on the host."""
        return host_rows(self.geometry(modality, name))

    def lengths(self, modality: str, mask: str) -> list[int]:
        """True entries in each row of a mask `[n, frames]`, or all frames of each where it is absent."""
        given = self.optional(modality, mask)
        if given is None:
            frames = self.geometry(modality, PIXELS[modality])
            return [int(frames.shape[-1])] * int(frames.shape[0])
        return [int(row) for (row,) in host_rows(given.bool().sum(-1)[:, None])]

    def placeholders(self, token_id: int) -> npt.NDArray[np.bool_]:
        """`[B, N]` where a placeholder id stands.

        Raises:
            ModelError: embeddings were given instead of ids.
        """
        if self.input_ids is None:
            raise ModelError(
                "images were given without input_ids, so their places are unknown",
                field="input_ids",
                remedy="pass input_ids, or give the spans: "
                "compress(model, …, layout=VisionLayout.from_spans(…))",
            )
        return np.asarray(self.input_ids == token_id)

    @property
    def pixels(self) -> dict[str, Any]:
        """Modality → pixels whose features are still to be made in this pass."""
        given = {kind: self.arguments.get(key) for kind, key in PIXELS.items()}
        return {kind: pixels for kind, pixels in given.items() if pixels is not None}

    def past_pads(self, past: int) -> tuple[int, ...]:
        """Left padding of `past` cached entries, none where no 2-D mask tells."""
        mask = self.arguments.get("attention_mask")
        if not isinstance(mask, torch.Tensor) or mask.shape[1:] != (past + self.length,):
            return (0,) * len(self.pads)
        return left_padding(mask[:, :past], len(self.pads), past, cached=True)

    @property
    def length(self) -> int:
        """New positions of this pass."""
        ids = self.arguments.get("input_ids")
        return int((self.arguments["inputs_embeds"] if ids is None else ids).shape[1])


def host_rows(values: Any) -> list[tuple[int, ...]]:
    """Rows of whole numbers `[n, m]`, on the host."""
    array = (
        values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    )
    return [tuple(int(value) for value in row) for row in array.reshape(-1, array.shape[-1] or 1)]


def bind(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `module.forward` by name; extra keyword arguments are kept.

    Pixels that an older release, or a model, takes under another name are given by the usual one too.
    """
    if not args:  # as transformers calls its own modules; a signature takes a while
        return _renamed(dict(kwargs))
    signature = inspect.signature(module.forward)
    names = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return _renamed({**dict(zip(names, args, strict=False)), **kwargs})


def _renamed(arguments: dict[str, Any]) -> dict[str, Any]:
    for other, name in (*OLDER_PIXELS.items(), *OTHER_PIXELS.items()):
        if arguments.get(other) is not None and arguments.get(name) is None:
            arguments[name] = arguments[other]
    return arguments


def read_inputs(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    features: dict[str, dict[str, Any]] | None = None,
) -> ModelInputs:
    """What the adapter needs to know of a forward pass (copies the ids to the host when needed)."""
    arguments = bind(module, args, kwargs)
    has_vision = carries_vision(arguments)
    ids = arguments.get("input_ids")
    tensor: Any = ids if ids is not None else arguments.get("inputs_embeds")
    batch, length = tensor.shape[:2]
    pads = (0,) * batch
    mask = arguments.get("attention_mask")
    if length > 1 and mask is not None:
        pads = left_padding(mask, batch, length)
    host = None
    if ids is not None and length > 1 and has_vision:
        host = ids.detach().cpu().numpy()
    return ModelInputs(arguments, host, pads, has_vision, dict(features or {}))


def refuse_full_length(arguments: dict[str, Any], spans_given: bool) -> None:
    """Refuse arguments that count positions of the uncompressed sequence, in a pass with images.

    Raises:
        SessionError: labels, or logits wanted at given positions.
    """
    if not spans_given and not carries_vision(arguments):
        return
    if arguments.get("labels") is not None:
        raise SessionError(
            "labels have one entry for each position of the prompt, but compressed layers give "
            "fewer logits",
            field="labels",
            remedy="leave labels out and compute the loss from the last logits of the text after "
            "the images, which all survive",
        )
    if isinstance(arguments.get("logits_to_keep"), torch.Tensor):
        raise SessionError(
            "positions of the uncompressed sequence are wanted, but compressed layers give fewer",
            field="logits_to_keep",
            remedy="pass a number: it counts from the end, and text after the images survives",
        )


def refuse_blind(inputs: ModelInputs, spans_given: bool) -> None:
    """Refuse embeddings of which nobody says where pictures are: they would pass as text.

    Raises:
        ModelError: more than one position, and neither ids, pixels, features nor spans.
    """
    ids = inputs.arguments.get("input_ids")
    if spans_given or inputs.has_vision or ids is not None or inputs.length == 1:
        return
    raise ModelError(
        "embeddings were given without ids, pixels or spans, so nobody can tell whether pictures are "
        "among them",
        field="inputs_embeds",
        remedy="pass input_ids with the pixels, or say where the pictures are: compress(model, …, "
        "layout=VisionLayout.from_spans(…)), with [[]] for a prompt of text alone",
    )


def carries_vision(arguments: dict[str, Any]) -> bool:
    """Whether a call brings images or audio, or their features."""
    return any(_present(arguments.get(key)) for key in VISION_ARGUMENTS)


def _present(value: Any) -> bool:
    if isinstance(value, dict):
        return any(v is not None for v in value.values())
    return value is not None


def left_padding(
    mask: torch.Tensor, batch: int, length: int, *, cached: bool = False
) -> tuple[int, ...]:
    """Left padding of each row in the last `length` columns of an attention mask.

    Args:
        mask: `[B, ≥ length]`, or `[B, 1, Q, ≥ length]`.
        batch, length: of what is looked at.
        cached: whether that is a cache which no session made.

    Raises:
        LayoutError: padding on the right, or holes.
    """
    if isinstance(mask, dict):
        return (0,) * batch
    if mask.dim() == 4:
        last = mask[:, 0, -1, :]
        mask = last if last.dtype == torch.bool else last >= 0
    real = mask[:, -length:].detach().cpu().numpy().astype(bool)
    real = np.broadcast_to(real, (batch, real.shape[1]))
    pads = np.where(real.any(axis=1), real.argmax(axis=1), 0)
    expected = np.arange(real.shape[1])[None, :] >= pads[:, None]
    if not np.array_equal(real, expected):
        row = int(np.argmax((real != expected).any(axis=1)))
        later = mask.shape[1] > length and bool(real[:, -1].all())
        raise cache_padded_inside(row) if cached else _padded_inside(row, later=later)
    return tuple(int(pad) for pad in pads)


def _padded_inside(row: int, *, later: bool) -> LayoutError:
    """The error for padding behind a token of the new tokens, of a later turn or not."""
    if later:
        cause = (
            "padding stands behind a token that is not cached yet: `generate` never feeds the last "
            "token of an answer, so it comes with the next turn"
        )
        remedy = (
            "pad the turn with that token on its left: padding, the answer's last token, the new turn "
            "(docs/models.md, Later turns)"
        )
    else:
        cause = (
            "the attention mask has padding after the first token; it would be scored as prompt, and "
            "generation continues at the end of the row"
        )
        remedy = "set processor.tokenizer.padding_side = 'left'"
    return LayoutError(cause, field="attention_mask", value=f"row {row}", remedy=remedy)
