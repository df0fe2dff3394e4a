"""Safetensors files as bytes: read in pieces, written in one go, never held as a whole.

A conversion moves rows of tensors from one file to another and computes nothing, so neither torch nor
the dtype of a tensor matters here: a row is so many bytes. What is in memory at any time is one buffer.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from lightkv.checkpoints.convert.whole_file import whole_file
from lightkv.core.errors import ModelError

BUFFER = 16 * 1024 * 1024
"""Bytes that are read at once."""
LARGEST_HEADER = 100_000_000
"""Bytes; what the format's own reader takes."""
ITEM_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Dtypes of plain weights → bytes of an element. Quantised checkpoints hold others."""

Rows = tuple[tuple[int, int], ...]
"""Ranges (from, to) of a tensor's first axis, one after the other."""


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies in a file.

    Attributes:
        dtype: as the format calls it.
        shape: of the tensor.
        begin: its first byte in the file.
        size: its bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    size: int

    @property
    def row(self) -> int:
        """Bytes of one row of the first axis."""
        return self.size // self.shape[0] if self.shape and self.shape[0] else self.size

    @property
    def all_rows(self) -> Rows:
        return ((0, self.shape[0] if self.shape else 1),)


@dataclass(frozen=True)
class Shard:
    """A safetensors file with its header read.

    Attributes:
        path: of the file.
        tensors: by name, in the order of their bytes.
        header: its digest, by which a file is known again without reading it whole.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    header: str

    @cached_property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def bytes_of(self, name: str, rows: Rows | None = None) -> Iterator[bytes]:
        """The bytes of some rows of a tensor, in order, a buffer at a time."""
        tensor = self.tensors[name]
        with self.path.open("rb") as file:
            for first, last in rows or tensor.all_rows:
                yield from _chunks(
                    file, tensor.begin + first * tensor.row, (last - first) * tensor.row
                )

    def digest(self, name: str) -> str:
        """SHA-256 of a tensor's bytes."""
        return digest(self.bytes_of(name))


def digest(chunks: Iterator[bytes]) -> str:
    """SHA-256 of bytes that come in pieces."""
    found = hashlib.sha256()
    for chunk in chunks:
        found.update(chunk)
    return found.hexdigest()


def _chunks(file: BinaryIO, begin: int, size: int) -> Iterator[bytes]:
    file.seek(begin)
    while size:
        chunk = file.read(min(size, BUFFER))
        if not chunk:
            raise _broken(Path(file.name), "it ends inside a tensor")
        size -= len(chunk)
        yield chunk


def read_shard(path: Path) -> Shard:
    """Read and check the header of a safetensors file.

    Raises:
        ModelError: it is none, it is cut off, or it holds something else than plain weights.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        head = int.from_bytes(file.read(8), "little")
        if length < 8 or not 0 < head <= min(LARGEST_HEADER, length - 8):
            raise _broken(path, "its header is missing or longer than the file")
        raw = file.read(head)
    try:
        fields = dict(json.loads(raw))
        fields.pop("__metadata__", None)
        tensors = {name: _tensor(fields[name], 8 + head) for name in fields}
    except (ValueError, TypeError, KeyError) as error:
        raise _broken(path, f"its header cannot be read ({error})") from error
    tensors = dict(sorted(tensors.items(), key=lambda item: item[1].begin))
    end = 8 + head
    for name, tensor in tensors.items():
        _check_tensor(path, name, tensor, end)
        end += tensor.size
    if end != length:
        raise _broken(path, f"it has {length:,} bytes, but its header tells of {end:,}")
    return Shard(path, tensors, hashlib.sha256(raw).hexdigest())


def _tensor(field: Any, start: int) -> Tensor:
    first, last = (int(offset) for offset in field["data_offsets"])
    shape = tuple(int(side) for side in field["shape"])
    return Tensor(str(field["dtype"]), shape, start + first, last - first)


def _check_tensor(path: Path, name: str, tensor: Tensor, begin: int) -> None:
    if tensor.dtype not in ITEM_SIZES:
        raise ModelError(
            f"{name} of {path.name} is of type {tensor.dtype}, which plain weights are not",
            field="checkpoint",
            value=tensor.dtype,
            remedy="convert the checkpoint that was not quantised, and quantise the result",
        )
    wanted = math.prod(tensor.shape) * ITEM_SIZES[tensor.dtype]
    if tensor.size != wanted or tensor.begin != begin:
        raise _broken(path, f"{name} does not lie where its shape says")


def _broken(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{path.name} is no whole safetensors file: {why}",
        field="checkpoint",
        value=str(path),
        remedy="get this file again; a download that was broken off leaves such files",
    )


@dataclass(frozen=True)
class Part:
    """A tensor to write: rows of one that is read.

    Attributes:
        name: of the tensor that is written.
        source: of the one that its rows come from.
        rows: which, in the order in which they are written.
    """

    name: str
    source: str
    rows: Rows


def write_shard(path: Path, source: Shard, parts: Sequence[Part]) -> None:
    """Write a safetensors file of rows of another one. It has its name only when it is whole."""
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for part in parts:
        tensor = source.tensors[part.source]
        count = sum(last - first for first, last in part.rows)
        size = count * tensor.row
        shape = (count, *tensor.shape[1:]) if tensor.shape else ()
        fields[part.name] = {
            "dtype": tensor.dtype,
            "shape": shape,
            "data_offsets": (offset, offset + size),
        }
        offset += size
    head = json.dumps(fields, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with whole_file(path) as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for part in parts:
            for chunk in source.bytes_of(part.source, part.rows):
                file.write(chunk)


def digest_of_source(written: Shard, parts: Sequence[Part]) -> str:
    """SHA-256 of the tensor that some written parts came from, put together again from the disk.

    Args:
        written: the file with the parts.
        parts: all parts of one source tensor.
    """
    places = []
    for part in parts:
        row = 0
        for first, last in part.rows:
            places.append((first, part.name, (row, row + last - first)))
            row += last - first
    return digest(
        chunk for _, name, rows in sorted(places) for chunk in written.bytes_of(name, (rows,))
    )
