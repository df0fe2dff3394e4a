"""What a library's error says to a user: its first sentence, and which package could not be imported."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from lightkv.core.errors import ModelError


def brief(error: BaseException, limit: int = 200) -> str:
    """The first sentence of an error that may be a page long."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.split(". ")[0].rstrip(".")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def import_problem(error: BaseException, field: str, value: object = None) -> ModelError | None:
    """The error to raise where transformers could not import something; None for any other reason.

    transformers imports when a class is asked for, and says then which class it was. The package that
    failed is named by the error below it.

    Args:
        error: of transformers.
        field: the user's option or argument, such as `--model`.
        value: what was given there.
    """
    if not isinstance(error, ImportError):
        return None
    chain: list[BaseException] = [error]
    while (below := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(below)
    first = chain[-1]
    return ModelError(
        f"transformers cannot import what it needs for this checkpoint ({brief(first)}), and the "
        "checkpoint may be sound",
        field=field,
        value=value,
        remedy=fitting_torchvision()
        if "torchvision" in str(first).lower()
        else "install the package that is named there, in a version that fits the others",
    )


def fitting_torchvision() -> str:
    """The remedy where torchvision is missing, or does not fit torch."""
    torch = version("torch")
    remedy = f"pip install torchvision, in the build that belongs to torch {torch}"
    try:
        there = version("torchvision")
    except PackageNotFoundError:
        return remedy
    return f"{remedy}, in place of {there}; or uninstall it: pictures need none"
