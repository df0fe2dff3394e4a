"""The pages of the API reference: all public names, grouped as an author looks for them."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import yaml

from lightkv.cli.strategies import parameters_of
from lightkv.core.contracts import Component
from lightkv_site.presets import described, parameter_table

INDEX = "reference/index.md"
UNGROUPED = "Others"
# A page of prose is found before the entry of a name.
HEAD = "---\nsearch:\n  boost: 0.7\n---\n\n"
INTRODUCTION = """# Reference

These modules are public. What is in none of them may move from one version to the next. The pages are
written from the docstrings when the site is built.

| module | what it is |
|---|---|
"""
BESIDES = """
[Command line](../command-line.md) has the commands, and [components](../presets/components.md) has
every component by the name that a pipeline gives it.
"""


def modules() -> dict[str, Any]:
    """The public modules, as reference.yaml describes them."""
    path = Path(__file__).parents[1] / "reference.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def page_of(module: str) -> str:
    """The page of a module on the site."""
    return f"reference/{module.replace('.', '-')}.md"


def pages() -> dict[str, str]:
    """Page of the site → its Markdown, with a directive of mkdocstrings for each public name."""
    shown: set[str] = set()
    described = modules()
    found = {page_of(name): _page(name, each["about"], shown) for name, each in described.items()}
    rows = [
        f"| [`{name}`]({page_of(name).rpartition('/')[2]}) | {each['about']} |"
        for name, each in described.items()
    ]
    found[INDEX] = INTRODUCTION + "\n".join(rows) + "\n" + BESIDES
    return found


def grouped(module: str) -> dict[str, list[str]]:
    """The public names of a module by group; those without one come last.

    Raises:
        LookupError: a group names what the module does not export.
    """
    public = list(importlib.import_module(module).__all__)
    groups = dict(modules()[module]["groups"])
    named = [name for names in groups.values() for name in names]
    unknown = [name for name in named if name not in public]
    if unknown:
        raise LookupError(f"{module} exports no {', '.join(unknown)}")
    rest = [name for name in public if name not in named]
    # Names of `lightkv` that `lightkv.plugin` exports too are on the page of the first.
    first = importlib.import_module("lightkv").__all__
    rest = [name for name in rest if module == "lightkv" or name not in first]
    return groups | ({UNGROUPED: rest} if rest else {})


def _page(module: str, about: str, shown: set[str]) -> str:
    lines = [f"{HEAD}# {module}", "", about, ""]
    for title, names in grouped(module).items():
        fresh = [name for name in names if _origin(module, name) not in shown]
        shown.update(_origin(module, name) for name in fresh)
        if fresh and title:
            lines += [f"## {title}", ""]
        for name in fresh:
            lines += [f"::: {_origin(module, name)}", "    options:", f"      heading: {name}"]
            lines += [f"      toc_label: {name}", f"      heading_level: {3 if title else 2}", ""]
            lines += _parameters(getattr(importlib.import_module(module), name))
    return "\n".join(lines)


def _parameters(value: object) -> list[str]:
    """What a component class takes: pydantic fields, whose defaults its docstring does not say."""
    if not isinstance(value, type) or not issubclass(value, Component):
        return []
    meanings = described(inspect.cleandoc(value.__doc__ or ""))[1]
    table = parameter_table(parameters_of(value), meanings)
    return [f"Parameters of `{value.__name__}`:", "", *table] if table else []


def _origin(module: str, name: str) -> str:
    """Where a name is defined: its documentation is there."""
    value = getattr(importlib.import_module(module), name)
    home = getattr(value, "__module__", "")
    if home.startswith("lightkv.") and vars(sys.modules[home]).get(name) is value:
        return f"{home}.{name}"
    return f"{module}.{name}"
