"""One check: that a tensor is finite."""

from __future__ import annotations

import torch

from lightkv.core.errors import NumericError


def check_finite(name: str, tensor: torch.Tensor | None) -> None:
    """Raise `NumericError` if a tensor holds NaN or infinity (skipped on the meta device)."""
    if tensor is None or tensor.is_meta or bool(torch.isfinite(tensor).all()):
        return
    bad = tensor[~torch.isfinite(tensor)]
    raise NumericError(
        f"{bad.numel()} of {tensor.numel()} values are NaN or infinite; merging would spread them",
        field=name,
        value=float(bad[0]),
        remedy="check the inputs and the dtype (float16 overflows where bfloat16 does not)",
    )
