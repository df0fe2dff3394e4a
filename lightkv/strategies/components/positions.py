"""What rotary positions survivors carry: their own, new ones in a row, or the mean of their group."""

from __future__ import annotations

import torch

from lightkv.core.contracts import PositionInput, PositionPolicy


class Keep(PositionPolicy):
    """Survivors keep their own rotary position; gaps remain."""

    name = "keep"

    def positions(self, inputs: PositionInput) -> None:
        return None


class Renumber(PositionPolicy):
    """Contiguous positions after each stage, from the position of the row's first token on.

    That is 0 … L′ − 1 in a first turn (1 … L′ where a family counts from 1); a later turn begins
    where it would have begun. Decoding goes on at the original length.
    """

    name = "renumber"
    source = "LightKV's released code; PyramidDrop, arXiv 2410.17247"

    def positions(self, inputs: PositionInput) -> torch.Tensor:
        axes = inputs.positions.shape[0]
        length = inputs.kept.shape[1]
        places = torch.arange(length, device=inputs.kept.device)[None]
        rank = (places - inputs.pads[:, None]).clamp(min=0)
        first = inputs.old_pads[:, None].clamp(max=inputs.positions.shape[2] - 1)
        return inputs.positions.gather(2, first.expand(axes, -1, -1)) + rank


class RenumberContiguous(Renumber):
    """As `renumber`, and generated tokens follow the compressed prompt of each layer."""

    name = "renumber-contiguous"
    source = "PyramidDrop, arXiv 2410.17247"
    decode = "contiguous"


class Barycentric(PositionPolicy):
    """A survivor stands at the weighted mean position of its group (fractions are legal)."""

    name = "barycentric"

    def positions(self, inputs: PositionInput) -> torch.Tensor:
        axes, batch, _ = inputs.positions.shape
        new_length = inputs.kept.shape[1]
        old = inputs.positions.reshape(axes, -1).float()
        moved = inputs.positions.gather(2, inputs.kept.expand(axes, -1, -1)).float()
        slots = inputs.vision.numel()
        # Dropped tokens go to a spare column, so this also holds where nothing is left.
        slot = torch.where(inputs.slot >= 0, inputs.slot, slots)
        mass = old.new_zeros(slots + 1).index_add(0, slot, inputs.share)
        mean = old.new_zeros(axes, slots + 1)
        mean = mean.index_add(1, slot, old[:, inputs.before] * inputs.share)
        mean = (mean / mass.clamp(min=1e-12))[:, :slots]
        flat = moved.reshape(axes, batch * new_length)
        return flat.index_copy(1, inputs.vision, mean).view(axes, batch, new_length)
