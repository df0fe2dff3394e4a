"""What a library's error says to a user: its first sentence, and which package could not be imported."""

from __future__ import annotations

import traceback
from importlib.metadata import PackageNotFoundError, packages_distributions, version

from lightkv.core.errors import ModelError, first_of


def brief(error: BaseException, limit: int = 200) -> str:
    """The first sentence of an error that may be a page long."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.split(". ")[0].rstrip(".")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def import_problem(
    error: BaseException, field: str | None = None, value: object = None
) -> ModelError | None:
    """The error to raise where a package could not be imported; None for any other reason.

    A package that does not fit another one raises what it likes while it is imported, such as a
    RuntimeError or a ValueError. transformers imports when a class is asked for, and says then which
    class it was; the package that failed is told by the error below it. What fails in lightkv's own
    modules is none of its packages' faults.

    Args:
        error: of transformers, or of an import.
        field: the user's option or argument that named a checkpoint, such as `--model`; None where the
            import had nothing to do with one.
        value: what was given there.
    """
    if not isinstance(error, ImportError) and _imported(error) is None:
        return None
    first = first_of(error)
    package = _package(first)
    if package == __name__.partition(".")[0]:
        return None
    sound = "" if field is None else ", and the checkpoint may be sound"
    return ModelError(
        f"{package or 'a package that is needed'} cannot be imported ({brief(first)}){sound}",
        field=field,
        value=value,
        remedy=fitting_torchvision()
        if package == "torchvision" or "torchvision" in str(first).lower()
        else _fitting(package),
    )


def _imported(error: BaseException) -> str | None:
    """The innermost module that was being imported when the error came; None if there was none."""
    names = [
        frame.f_globals.get("__name__")
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_name == "<module>"
    ]
    return names[-1] if names else None


def _package(error: BaseException) -> str | None:
    """The package that could not be imported, by its name in Python; None where nobody says it."""
    named = error.name if isinstance(error, ImportError) else None
    return (named or _imported(error) or "").partition(".")[0] or None


def _fitting(package: str | None) -> str:
    """The remedy for a package that is missing, or does not fit the others."""
    if package is None:
        return "install the package that is named there, in a version that fits the others"
    for name in packages_distributions().get(package, ()):
        return f"install another version of {name} than {version(name)}, one that fits the others"
    return f"install {package}"


def fitting_torchvision() -> str:
    """The remedy where torchvision is missing, or does not fit torch."""
    torch = version("torch")
    remedy = f"pip install torchvision, in the build that belongs to torch {torch}"
    try:
        there = version("torchvision")
    except PackageNotFoundError:
        return remedy
    return f"{remedy}, in place of {there}; or uninstall it: pictures need none"
