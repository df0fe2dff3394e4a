"""Where the checkpoint of the bundled model is."""

from __future__ import annotations

from pathlib import Path

from lightkv.core.errors import ModelError

BUNDLED = "demo"
"""The name of the bundled model."""
FOLDER = Path(__file__).parents[1] / "demo" / "checkpoint"


def checkpoint_path() -> Path:
    """The folder of the bundled checkpoint, an ordinary one for ``from_pretrained``.

    Raises:
        ModelError: the package was built without it.
    """
    if not (FOLDER / "config.json").is_file():
        raise ModelError(
            f"no checkpoint in {FOLDER}; in a checkout train one with "
            "`python -m training.train --out DIR` and copy DIR/checkpoint there",
            field="--model",
            value=BUNDLED,
        )
    return FOLDER
