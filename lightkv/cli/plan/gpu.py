"""`lightkv plan --gpu`: weights, cache and activations of a request, and requests at once."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from lightkv.checkpoints.published import Description
from lightkv.cli.options import refuse
from lightkv.cli.output import bytes_text, console, table
from lightkv.cli.plan.defaults import SHARE, WEIGHT_BYTES
from lightkv.core.cost.counting import Savings
from lightkv.core.cost.memory import Fit, activation_bytes
from lightkv.core.errors import ConfigError

UNITS = {
    **{f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", start=1)},
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", start=1)},
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


def read_size(text: str, field: str = "--gpu") -> int:
    """`24GiB` → bytes.

    Raises:
        ConfigError: no number above 0 with a unit.
    """
    remedy = "such as 24GiB or 80GB"
    found = _SIZE.fullmatch(text)
    if found is None or found[2].upper() not in UNITS:
        what = "a size is a number with a unit (MiB, GiB, TiB, MB, GB, TB)"
        raise ConfigError(what, field=field, value=text, remedy=remedy)
    size = float(found[1]) * UNITS[found[2].upper()]
    if not 1 <= size < math.inf:
        raise ConfigError("a GPU has some memory", field=field, value=text, remedy=remedy)
    return int(size)


@dataclass(frozen=True)
class Memory:
    """A GPU: its bytes, the share of them that may be used, and bytes of a weight on it."""

    size: int
    share: float = SHARE
    weight_bytes: float = WEIGHT_BYTES


def check_gpu(
    gpu: str | None, share: float | None, weight_bytes: float | None, kv_gib: float | None
) -> Memory | None:
    """The GPU that the options describe, None where they name none.

    Raises:
        ConfigError: options without a GPU, a size of the cache beside it, or a value that none can have.
    """
    alone = {"--gpu-share": share, "--weight-bytes": weight_bytes}
    if gpu is None:
        refuse(alone, "it belongs to a GPU", remedy="add --gpu SIZE, such as --gpu 24GiB")
        return None
    refuse({"--kv-gib": kv_gib}, "what the GPU has left is the cache", beside="--gpu")
    size = read_size(gpu)
    for (field, value), most in zip(alone.items(), (1.0, 16.0), strict=True):
        if value is not None and not 0 < value <= most:
            raise ConfigError(f"it is above 0 and at most {most:g}", field=field, value=value)
    return Memory(
        size,
        SHARE if share is None else share,
        WEIGHT_BYTES if weight_bytes is None else weight_bytes,
    )


def fit(described: Description, savings: Savings, memory: Memory) -> Fit:
    """What the GPU holds, with and without the counted pipeline.

    Raises:
        ConfigError: the GPU does not hold the weights.
    """
    found = Fit(
        gpu=memory.size,
        share=memory.share,
        parameters=described.parameters,
        weights=math.ceil(described.parameters * memory.weight_bytes),
        activations=activation_bytes(
            described.shape, savings.vanilla.vision_tokens[0] + savings.text_tokens
        ),
        vanilla=savings.vanilla.kv_bytes,
        compressed=savings.compressed.kv_bytes,
    )
    found.check("--gpu", "a larger GPU, or weights of fewer bytes, such as --weight-bytes 0.5")
    return found


def show_fit(found: Fit, described: Description, new_tokens: int) -> None:
    """Print what the GPU holds."""
    of = f", {described.counted}" if described.counted else ""
    rows = table(f"on a GPU of {bytes_text(found.gpu)}", "vanilla", "compressed", "ratio")
    for label, size in (
        (f"weights ({found.parameters:,}{of})", found.weights),
        ("activations of one prefill", found.activations),
        (f"left for caches, of {found.share:g} of it", max(0, found.left)),
    ):
        rows.add_row(label, bytes_text(size), bytes_text(size), "")
    old, new = found.vanilla, found.compressed
    rows.add_row(
        f"KV of a request, prompt + {new_tokens} tokens",
        bytes_text(old),
        bytes_text(new),
        f"{new / old:.3f}",
    )
    few, many = found.requests(old), found.requests(new)
    rows.add_row("requests at once", f"{few:,}", f"{many:,}", f"{many / few:.3f}" if few else "")
    out = console()
    out.print(rows)
    if not many:
        out.print("Not even one such request fits beside the weights.")
    out.print(
        f"Weights at {found.weights / found.parameters:g} bytes each. Requests are such requests at "
        "once, all at their last token, while one of them is in its prefill. Activations are an "
        "estimate: the decoder's peak with fused attention and hidden states of 2 bytes; a stage behind "
        "the first layers does not lower it. Engines that keep the cache in blocks: --engine vllm.",
        style="dim",
    )
