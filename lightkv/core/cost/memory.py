"""Memory of a GPU: weights, what a prefill takes beside them, and how many caches fit into the rest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lightkv.core.cost.flops import DecoderShape
from lightkv.core.errors import ConfigError


def activation_bytes(shape: DecoderShape, tokens: int, bytes_per_value: int = 2) -> int:
    """Bytes that a prefill of `tokens` tokens takes at its peak beside weights and cache: an estimate.

    The peak is in the feed-forward part: the embeddings, the residual, what is normed and what comes
    out, each of the hidden width, and the two or three tensors of the wider one. That holds where
    attention is fused and keeps no matrix of scores, and where logits are computed for the last token
    only. The vision encoder ran before, and its tensors are gone; recurrent layers without fused
    kernels take more.

    Args:
        shape: of the decoder.
        tokens: that enter it, vision and text; a stage behind the first layer does not lower the peak.
        bytes_per_value: of a hidden state.
    """
    wide = 3 if shape.gated_mlp else 2
    return tokens * bytes_per_value * (4 * shape.hidden_size + wide * shape.intermediate_size)


@dataclass(frozen=True)
class Fit:
    """What a GPU holds of one model and of equal requests.

    Attributes:
        gpu: bytes of the GPU.
        share: of them that may be used; the rest is for the driver, libraries and fragments.
        parameters: of the model.
        weights: their bytes.
        activations: bytes that one prefill takes at its peak; one prefill runs at a time.
        vanilla, compressed: bytes of the cache of one request after its last token.
    """

    gpu: int
    share: float
    parameters: int
    weights: int
    activations: int
    vanilla: int
    compressed: int

    @property
    def usable(self) -> int:
        """Bytes that may be used."""
        return int(self.gpu * self.share)

    @property
    def left(self) -> int:
        """Bytes for caches; negative where a single prefill does not fit."""
        return self.usable - self.weights - self.activations

    def requests(self, kv_bytes: int) -> int:
        """Requests at once, each with a cache of so many bytes."""
        return max(0, self.left // kv_bytes)

    def check(self, field: str = "gpu", remedy: str = "a larger GPU") -> None:
        """Refuse a GPU that does not hold the weights.

        Raises:
            ConfigError: saying by how much.
        """
        if self.weights <= self.usable:
            return
        gib = 2**30
        raise ConfigError(
            f"the weights take {self.weights / gib:.1f} GiB ({self.parameters:,} at "
            f"{self.weights / self.parameters:g} bytes), and {self.share:g} of this GPU are "
            f"{self.usable / gib:.1f} GiB: {(self.weights - self.usable) / gib:.1f} GiB too little",
            field=field,
            value=f"{self.gpu / gib:g} GiB",
            remedy=remedy,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        sides = {"vanilla": self.vanilla, "compressed": self.compressed}
        return {
            **asdict(self),
            "usable": self.usable,
            "left": self.left,
            "requests": {name: self.requests(size) for name, size in sides.items()},
        }
