"""Decoders that add features of the vision tower behind their first layers (deepstack).

The additions go to the vision positions of the full sequence, so nothing is compressed before the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightkv.adapters.hf.contact import FEATURES_BEFORE, FEATURES_BEHIND
from lightkv.core.pipeline.places import Places


def first_place(config: Any) -> int:
    """Layers that must run before the first stage, as the config of a whole model says."""
    listed = getattr(getattr(config, "vision_config", None), "deepstack_visual_indexes", None) or ()
    pairs = getattr(config, "deepstack_layer_map", None) or ()
    spatial = getattr(config, "spatial_target_layers", None) or ()
    named = [*(layer for _, layer in pairs), *spatial] if pairs else ()
    return max(len(listed), *named, 0)


def added_places(arguments: Mapping[str, Any]) -> Places:
    """Where stages may act in a pass, as the arguments of its decoder say."""
    behind, before = arguments.get(FEATURES_BEHIND), arguments.get(FEATURES_BEFORE)
    first = len(behind) if isinstance(behind, list | tuple) else 0
    if isinstance(before, Mapping) and before:
        first = max(first, *before)
    return Places(
        first=first,
        why_first=f"this model adds features of the vision tower in its first {first} layers, at the "
        "positions of the full sequence",
    )
