"""The bundled models, by name, and where their checkpoints are."""

from __future__ import annotations

from pathlib import Path

from lightkv.core.errors import ModelError, check_known

BUNDLED, VIDEO = "demo", "demo-video"
"""The names of the bundled models: of pictures of one size; of pictures, pairs and clips of any."""
_DEMO = Path(__file__).parents[1] / "demo"
FOLDERS = {BUNDLED: _DEMO / "checkpoint", VIDEO: _DEMO / "video"}
_TRAINED_BY = {BUNDLED: "training.train", VIDEO: "training.video.train"}


def checkpoint_path(name: str = BUNDLED) -> Path:
    """The folder of a bundled checkpoint, an ordinary one for ``from_pretrained``.

    Raises:
        ModelError: no bundled model has the name, or the package was built without it.
    """
    check_known(ModelError, "no bundled model has this name", "--model", name, FOLDERS)
    folder = FOLDERS[name]
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"there is no checkpoint in {folder}: this lightkv was built without the model",
            field="--model",
            value=name,
            remedy=f"train one in a checkout, `python -m {_TRAINED_BY[name]} --out DIR`, and copy "
            f"DIR/checkpoint there",
        )
    return folder
