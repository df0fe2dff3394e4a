"""How vLLM groups decoder layers whose caches differ, counted without vLLM.

All groups draw their blocks from one pool. A block of a group holds the same tokens for each of its
layers, so vLLM gives all groups the same number of layers; where one has fewer, the rest of each of
its blocks is empty (*padding layers*). `tests/vllm/test_blocks_rule.py` compares this with vLLM's own
rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Group", "Grouping", "group_layers"]

_NEARLY_EQUAL = 1.5
"""Up to this ratio, exclusive, of the largest segment to the smallest each segment is one group."""


@dataclass(frozen=True)
class Group:
    """Layers that share their blocks.

    Attributes:
        segment: index of the segment that they belong to.
        layers: indices of decoder layers.
        padding: layers that the group has less than its blocks have room for.
    """

    segment: int
    layers: tuple[int, ...]
    padding: int


@dataclass(frozen=True)
class Grouping:
    """All groups of a decoder.

    Attributes:
        size: layers that a block has room for.
        groups: in the order of their segments.
    """

    size: int
    groups: tuple[Group, ...]

    @property
    def padding(self) -> int:
        """Padding layers of all groups."""
        return sum(group.padding for group in self.groups)


def group_layers(segments: Sequence[Sequence[int]]) -> Grouping:
    """The groups of a decoder whose layers fall into these segments, none of them empty.

    The smallest segment gives the size of all groups, unless the largest has less than 1.5 times as
    many layers: then the largest does. A larger segment is dealt out to as many groups as it needs.
    """
    counts = [len(layers) for layers in segments]
    least, most = min(counts), max(counts)
    size = most if most < _NEARLY_EQUAL * least else least
    groups = []
    for segment, layers in enumerate(segments):
        needed = -(-len(layers) // size)
        for first in range(needed):
            dealt = tuple(layers[first::needed])
            groups.append(Group(segment, dealt, size - len(dealt)))
    return Grouping(size, tuple(groups))
