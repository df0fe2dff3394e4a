"""The record of a conversion: what was written of which source, so that it can go on and be checked.

It stands in the folder of the result. A shard is in it once it was written, read back and found to hold
the source's tensors.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightkv.checkpoints.convert.shards import Shard
from lightkv.checkpoints.convert.whole_file import UNFINISHED, whole_file
from lightkv.core.errors import ModelError, file_errors

NAME = "lightkv_conversion.json"
VERSION = 1


@dataclass
class Record:
    """What is known of a conversion.

    Attributes:
        kind: of the checkpoint.
        config: digest of the source's config and of what was ignored in it.
        shards: name of each finished file → what it was made of.
        finished: whether all files are there.
    """

    kind: str
    config: str
    shards: dict[str, ShardRecord] = field(default_factory=dict)
    finished: bool = False
    version: int = VERSION

    def save(self, folder: Path) -> None:
        """Write it; at any time there is a whole one."""
        with whole_file(folder / NAME) as file:
            file.write(json.dumps(asdict(self), indent=1).encode())


@dataclass
class ShardRecord:
    """What a finished shard was made of.

    Attributes:
        source_bytes, source_header: size of the source file, digest of its header.
        tensors: source tensor → SHA-256 of its bytes.
    """

    source_bytes: int
    source_header: str
    tensors: dict[str, str]

    def of_source(self, source: Shard) -> bool:
        """Whether a source file is the one that it was made of, by size and header."""
        return (self.source_bytes, self.source_header) == (source.size, source.header)


def load_record(folder: Path) -> Record | None:
    """The record in a folder, None where there is none.

    Raises:
        ModelError: it cannot be read.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        shards = {name: ShardRecord(**shard) for name, shard in fields.pop("shards").items()}
        record = Record(shards=shards, **fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"the record of the conversion cannot be read ({error})",
            field="out",
            value=str(path),
            remedy="convert into an empty folder",
        ) from error
    if record.version != VERSION:
        raise ModelError(
            "the conversion was begun by another version of lightkv",
            field="out",
            value=record.version,
            remedy="convert into an empty folder",
        )
    return record


def open_record(folder: Path, kind: str, config: str) -> Record:
    """The record of this conversion in a folder: an empty one, or that of a run that was interrupted.

    Raises:
        ModelError: the folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise _occupied(folder, "it is a file")
    with file_errors(ModelError, "make the folder", "out", folder):
        folder.mkdir(parents=True, exist_ok=True)
    record = load_record(folder)
    if record is None:
        others = [path.name for path in folder.iterdir() if path.name != NAME + UNFINISHED]
        if others:
            raise _occupied(folder, f"it holds {', '.join(sorted(others)[:3])}")
        return Record(kind, config)
    if (record.kind, record.config) != (kind, config):
        raise _occupied(folder, "it holds the conversion of another checkpoint")
    return record


def _occupied(folder: Path, why: str) -> ModelError:
    return ModelError(
        f"the result cannot be written there: {why}",
        field="out",
        value=str(folder),
        remedy="give an empty or a new folder, or that of the same conversion, which then goes on",
    )
