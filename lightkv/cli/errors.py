"""Errors of the command line: one line on standard error and exit code 2, never a traceback."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any, TextIO

import typer
from typer.core import TyperGroup

from lightkv.core.errors import LightKVError

EXIT_CODE = 2
INTERRUPTED = 130

# Typer carries click inside itself in new versions and depends on it in old ones; its public
# errors lead to the right base class in both.
_UsageError: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)


def one_line(text: str) -> str:
    """The text with every run of white space as one blank."""
    return " ".join(text.split())


def fail(message: str) -> int:
    """Print the message as an error; the exit code to leave with."""
    typer.echo(f"error: {one_line(message)}", err=True)
    return EXIT_CODE


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Replaces Python's two-line form with file and source line, which tells a user nothing."""
    if not issubclass(category, (DeprecationWarning, FutureWarning)):
        typer.echo(f"warning: {one_line(str(message))}", err=True)


class OneLineErrors(TyperGroup):
    """A command group whose expected errors are one line."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line; exits unless `standalone_mode` is off."""
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            try:
                result = super().main(
                    args, prog_name, complete_var, False, windows_expand_args, **extra
                )
                code = result if isinstance(result, int) else 0
            except _UsageError as error:
                code = fail(error.format_message())  # type: ignore[attr-defined]
            except typer.Abort:
                code = INTERRUPTED
            except LightKVError as error:
                code = fail(str(error))
            except Exception as error:
                from lightkv.checkpoints.library_errors import import_problem

                told = import_problem(error)
                if told is None:  # a bug keeps its traceback
                    raise
                code = fail(str(told))
        if standalone_mode:
            sys.exit(code)
        return code
