"""YAML of the user: safe (no code, no objects), and no key twice."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, ScalarNode

_SPECIAL = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")
"""Of keys that are no keys of the mapping: `<<` and `=`."""


def load(text: str) -> Any:
    """Plain data.

    A repeated key is an error: YAML would keep the last of the two in silence.

    Raises:
        yaml.YAMLError: not YAML, an object, or a key twice, with the line.
    """
    return yaml.load(text, Loader=_Loader)


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys; what `<<` merges may be gone over, as ever."""

    def flatten_mapping(self, node: MappingNode) -> None:
        # Before merged keys stand beside the mapping's own. It comes here once more for a mapping
        # that others merge, which holds merged keys then.
        if not getattr(node, "checked", False):
            self._check(node)
            node.checked = True  # type: ignore[attr-defined]
        super().flatten_mapping(node)  # type: ignore[no-untyped-call]

    def _check(self, node: MappingNode) -> None:
        seen = set[Hashable]()
        for key, _ in node.value:
            if not isinstance(key, ScalarNode) or key.tag in _SPECIAL:
                continue
            found = self.construct_object(key)
            if found in seen:
                raise ConstructorError(
                    "while reading a mapping",
                    node.start_mark,
                    f"the key {key.value!r} is there twice",
                    key.start_mark,
                )
            seen.add(found)
