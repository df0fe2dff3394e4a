"""Digests of files: whether data and checkpoints are still what results were made with."""

from __future__ import annotations

import hashlib
from pathlib import Path

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_known: dict[tuple[str, int, int], str] = {}
"""(path, size, time of change) → digest of the content, for this process."""


def content_digest(path: Path) -> str:
    """Of a file's content, which is read once in a process while size and time stay.

    Raises:
        OSError: it cannot be read.
    """
    state = path.stat()
    key = (str(path.absolute()), state.st_size, state.st_mtime_ns)
    if key not in _known:
        with path.open("rb") as file:
            _known[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _known[key]


def model_digest(source: str) -> str:
    """Of a checkpoint directory: the content of its JSON files; name, size and time of its weights,
    which are too large to read.

    "" for the bundled models, which change with the version of lightkv only, and for hub ids.

    Raises:
        OSError: a file in it cannot be read.
    """
    from lightkv.checkpoints.bundled import FOLDERS

    folder = Path(source).expanduser()
    if source in FOLDERS or not folder.is_dir():
        return ""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix == ".json":
            digest.update(f"{file.name} {content_digest(file)}\n".encode())
        elif file.suffix in _WEIGHTS:
            state = file.stat()
            digest.update(f"{file.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
