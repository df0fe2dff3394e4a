"""A SentencePiece model of byte pairs, read from its file as a tokenizer of `tokenizers`.

The file is a protocol buffer. Four of its fields are needed, so the wire format is read here: neither
the `sentencepiece` package nor code of the checkpoint has to be installed or run.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from lightkv.core.errors import ModelError

SPACE = "▁"
_UNKNOWN, _CONTROL, _OF_USER = 2, 3, 4
_BYTE_PAIRS = 2


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary: its text, its score (later merges are lower), its kind."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceFile:
    """What a model file says.

    Attributes:
        pieces: the vocabulary, in the order of ids.
        byte_pairs: whether it merges pairs (others choose the likeliest split).
        dummy_prefix: whether a space is put before a text.
        single_spaces: whether spaces at the ends go, and runs of them become one.
        charsmap: whether characters are normalised by a table.
    """

    pieces: tuple[Piece, ...]
    byte_pairs: bool
    dummy_prefix: bool
    single_spaces: bool
    charsmap: bool


def read_sentencepiece(path: Path) -> SentencePieceFile:
    """Read a `tokenizer.model`.

    Raises:
        ModelError: something else is in the file.
    """
    try:
        fields = list(_fields(path.read_bytes()))
        pieces = tuple(_piece(value) for number, value in fields if number == 1)
        trainer = {n: v for of, value in fields if of == 2 for n, v in _fields(value)}
        normal = {n: v for of, value in fields if of == 3 for n, v in _fields(value)}
    except (ValueError, IndexError, struct.error, TypeError) as error:
        raise ModelError(
            f"{path.name} is no SentencePiece model ({error})",
            field="checkpoint",
            value=str(path),
            remedy="get this file again",
        ) from error
    return SentencePieceFile(
        pieces=pieces,
        byte_pairs=trainer.get(3, 1) == _BYTE_PAIRS,
        dummy_prefix=bool(normal.get(3, 1)),
        single_spaces=bool(normal.get(4, 1)),
        charsmap=bool(normal.get(2, b"")),
    )


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"a field of wire type {wire}")
        if at + length > len(data):
            raise ValueError("it ends inside a field")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _piece(message: bytes) -> Piece:
    values = dict(_fields(message))
    (score,) = struct.unpack("<f", values.get(2, bytes(4)))
    return Piece(values[1].decode(), score, values.get(3, 1))


def byte_pair_tokenizer(
    file: SentencePieceFile, added: Mapping[str, int], *, prefix_once: bool
) -> Tokenizer:
    """The tokenizer of a model file.

    Args:
        file: what was read.
        added: tokens of the checkpoint beside it → their ids. Where such an id is a piece's, the piece
            gives up its name: InternLM2 keeps unused pieces for its chat tokens.
        prefix_once: whether only the start of a text gets the space, not each part between added tokens.

    Raises:
        ModelError: a model of another kind, or one that normalises characters.
    """
    _refuse_others(file, prefix_once)
    names = {id: token for token, id in added.items()}
    texts = [names.get(id, piece.text) for id, piece in enumerate(file.pieces)]
    vocabulary = {text: id for id, text in enumerate(texts)}
    merges = _merges({piece.text: piece.score for piece in file.pieces}, vocabulary)
    unknown = next((p.text for p in file.pieces if p.kind == _UNKNOWN), "<unk>")
    model = BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(_normalizers(file))
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if file.dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    for text, piece in zip(texts, file.pieces, strict=True):
        if piece.kind in (_UNKNOWN, _CONTROL):
            tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True)])
        elif piece.kind == _OF_USER:
            tokenizer.add_tokens([AddedToken(text, normalized=False)])
    return tokenizer


def _refuse_others(file: SentencePieceFile, prefix_once: bool) -> None:
    reasons = {
        "is no model of byte pairs": not file.byte_pairs,
        "normalises characters by a table": file.charsmap,
        "puts its space before the first part of a text only": prefix_once and file.dummy_prefix,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ModelError(
                f"the tokenizer {reason}",
                field="checkpoint",
                value="tokenizer.model",
                remedy="put the tokenizer.json of the same tokenizer into the checkpoint's folder",
            )


def _merges(scores: Mapping[str, float], vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """Pairs that become one piece, the likeliest piece first."""
    found = []
    for text, score in scores.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if text in vocabulary and left in vocabulary and right in vocabulary:
                found.append((-score, vocabulary[left], vocabulary[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _normalizers(file: SentencePieceFile) -> list[Any]:
    steps: list[Any] = []
    if file.single_spaces:
        steps += [
            normalizers.Replace(Regex(r"\A +| +\z"), ""),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    if file.dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return [*steps, normalizers.Replace(" ", SPACE)]
