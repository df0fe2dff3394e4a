"""Commands that are imported when they are called: `lightkv --help` needs no more than their names.

`COMMANDS` is the one place that lists them. The file of a command imports typer and what its options
are made of; whatever else it needs, it imports while it runs, so that its own `--help` is quick too
(`tests/cli/test_imports.py`).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand

from lightkv.cli.errors import OneLineErrors


@dataclass(frozen=True)
class Place:
    """Where a command is, and what it does in one line: the first of its docstring.

    Attributes:
        module: of `lightkv.cli`.
        help: as the list of commands shows it.
        attribute: the function, or the typer app of a command with commands of its own; as the command
            is called, with `_` for `-`, where none is given.
    """

    module: str
    help: str
    attribute: str = ""


COMMANDS = {
    "demo": Place(
        "demo",
        "Compare strategies on the bundled model: accuracy, KV cache, FLOPs, time to first token.",
    ),
    "run": Place(
        "run",
        "Answer a prompt about pictures with compressed vision tokens; print what that saved.",
    ),
    "strategies": Place(
        "strategies",
        "List presets, components and adapters, with their source and the package they come from.",
    ),
    "models": Place(
        "models",
        "List the multimodal types of the installed transformers: which work, and why others do not.",
    ),
    "plan": Place(
        "plan.command",
        "Count vision tokens per layer, KV cache and FLOPs of a schedule. Needs no weights.",
    ),
    "show": Place(
        "show",
        "Draw which patches merged into one token, which were dropped, and the guidance behind it.",
    ),
    "play": Place(
        "play",
        "Serve a page that asks a model about a picture under two strategies, side by side.",
    ),
    "report": Place(
        "report",
        "Write one self-contained HTML page: quality against cost, main effects, all cells.",
    ),
    "ablate": Place(
        "ablate",
        "Run an ablation grid; run again with the same --out, it goes on where it stopped.",
    ),
    "export": Place(
        "export",
        "Write cells, samples, kinds of question or effects of results files as CSV or JSON.",
    ),
    "compare": Place(
        "compare",
        "Compare the cells of results files with those of the first, paired by sample.",
    ),
    "tune": Place(
        "tune",
        "Find the smallest retention with a small enough loss; write its pipeline with the evidence.",
    ),
    "search": Place(
        "search",
        "Search components, parameters and schedules: quality against FLOPs; run again, it goes on.",
    ),
    "vllm-args": Place(
        "vllm_args",
        "Print the flags of `vllm serve` that make a model compress, after checking them.",
    ),
    "convert": Place("convert", "Convert a checkpoint for transformers' own classes.", "app"),
}


def load(name: str) -> Any:
    """The command itself, of click."""
    place = COMMANDS[name]
    module = importlib.import_module(f"lightkv.cli.{place.module}")
    found = getattr(module, place.attribute or name.replace("-", "_"))
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(name)(found)
    return typer.main.get_command(alone)


class LaterCommand(TyperCommand):
    """Stands for a command in lists; what is called is the command itself."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Import the command and let it read its arguments; the context is its own."""
        return load(str(self.name)).make_context(info_name, args, parent=parent, **extra)


class LaterCommands(OneLineErrors):
    """The group of all commands, none of which is imported before it is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, place in COMMANDS.items():
            self.commands[name] = LaterCommand(name, help=place.help)
