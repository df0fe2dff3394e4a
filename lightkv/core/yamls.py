"""YAML of the user: safe (no code, no objects), no key twice, and bounded in length and depth."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode

MOST_CHARACTERS = 1_000_000
"""Length of a text that is read."""
MOST_DEPTH = 50
"""Mappings and lists inside one another, aliases followed."""
MOST_NODES = 100_000
"""Keys and values of a text, with all that its aliases stand for."""

_SPECIAL = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")
"""Of keys that are no keys of the mapping: `<<` and `=`."""


def load(text: str) -> Any:
    """Plain data.

    A repeated key is an error: YAML would keep the last of the two in silence.

    Raises:
        yaml.YAMLError: not YAML, an object, a value that its kind cannot have, a key twice (all with
            the line), or more of it than the bounds of this file allow.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"more than {MOST_CHARACTERS:,} characters")
    return yaml.load(text, Loader=_Loader)


def read(path: str | Path) -> Any:
    """Plain data of a file; of one that is too long no more is read than shows it.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read as text.
        yaml.YAMLError: as `load`.
    """
    with Path(path).open(encoding="utf-8") as file:
        return load(file.read(MOST_CHARACTERS + 1))


def dump(data: Any, **options: Any) -> str:
    """YAML from which `load` gives the plain data back, keys in their order.

    Args:
        data: texts, numbers, truth values, None, and mappings and lists of them.
        options: of `yaml.dump`, such as `width`.
    """
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **options)
    return str(text)


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys; what `<<` merges may be gone over, as ever."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        # Of each finished node: how many nodes it stands for, and how deep they lie.
        self._sizes: dict[int, tuple[int, int]] = {}
        self._open = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        alias = self.check_event(AliasEvent)
        self._bounded(mark, 1, self._open + 1)
        self._open += 1
        node = super().compose_node(parent, index)
        self._open -= 1
        if node is None:
            return None
        if not alias:
            self._sizes[id(node)] = self._measured(node)
        elif id(node) not in self._sizes:
            raise ComposerError(None, None, "an alias stands inside what it stands for", mark)
        self._bounded(mark, *self._sizes[id(node)])
        return node

    def _measured(self, node: Node) -> tuple[int, int]:
        """Nodes and depth of a node whose parts are finished."""
        parts = [] if isinstance(node, ScalarNode) else node.value
        if isinstance(node, MappingNode):
            parts = [part for pair in parts for part in pair]
        sizes = [self._sizes[id(part)] for part in parts]
        return 1 + sum(n for n, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)

    @staticmethod
    def _bounded(mark: Any, nodes: int, depth: int) -> None:
        if depth > MOST_DEPTH:
            raise ComposerError(None, None, f"nested more than {MOST_DEPTH} deep", mark)
        if nodes > MOST_NODES:
            raise ComposerError(None, None, f"more than {MOST_NODES:,} keys and values", mark)

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
            # A date without such a day, a number of 5,000 digits, a tag that the text does not fit.
            raise ConstructorError(
                "while reading a value", node.start_mark, f"it is none of its kind ({error})"
            ) from error

    def flatten_mapping(self, node: MappingNode) -> None:
        # Before merged keys stand beside the mapping's own. It comes here once more for a mapping
        # that others merge, which holds merged keys then.
        if not getattr(node, "checked", False):
            self._check(node)
            node.checked = True  # type: ignore[attr-defined]
        super().flatten_mapping(node)

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


class _Dumper(yaml.SafeDumper):
    """A safe dumper that puts in quotes what `_Loader` would read as a number."""


# `5e-1` and `1.5e3` are numbers, as in YAML 1.2 and JSON; YAML 1.1 reads texts. `3e-2 is small`
# is none: the whole text has to match, which PyYAML leaves to the pattern.
for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )
