"""InternVL2 and InternVL2.5 as published (`InternVLChatModel`), as a native checkpoint of transformers.

A shard of the source becomes a shard of the same name: tensors are renamed, packed projections are
unpacked by rows, and nothing is computed. Each shard is read back from the disk, put together again and
compared with the source before it counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightkv.checkpoints.convert.internvl2_config import Plan, plan_of, read_json
from lightkv.checkpoints.convert.internvl2_prompts import (
    chat_template,
    generation_config,
    processor_config,
)
from lightkv.checkpoints.convert.record import Record, ShardRecord, open_record
from lightkv.checkpoints.convert.shards import (
    Part,
    Shard,
    digest_of_source,
    read_shard,
    write_shard,
)
from lightkv.checkpoints.convert.tokenizer import CONTEXT, converted_tokenizer
from lightkv.core.errors import ModelError, file_errors

KIND = "internvl2"
AGAIN = "run the same command again: finished files are kept"
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_HEAD, _EMBEDDING = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        folder: with the native checkpoint.
        shards: how many files hold its weights.
        kept: how many of them an earlier run had written already.
        read: tensors of the source, each used exactly once.
        written: tensors of the result.
        bytes: of all weights.
        decoder: `model_type` of the decoder.
    """

    folder: Path
    shards: int
    kept: int
    read: int
    written: int
    bytes: int
    decoder: str


def convert_internvl2(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    template: str | None = None,
    ignore: Sequence[str] = (),
    progress: Callable[[str], None] = lambda line: None,
) -> Conversion:
    """Convert an InternVL2 or InternVL2.5 checkpoint into the native form of transformers.

    Decoders of InternLM2, Llama and Qwen2 are known. Needs memory for one buffer, and disk for the
    result. No code of the checkpoint is run and no pickle is opened.

    Args:
        checkpoint: folder with `config.json`, safetensors and the tokenizer's files.
        out: new or empty folder for the result, or that of an interrupted conversion, which goes on:
            files that it finished are checked and kept.
        template: chat template (Jinja) in place of the checkpoint's own conversation.
        ignore: fields of the config that are not known, and are known to you to change nothing.
        progress: is told what happens, a line at a time.

    Raises:
        ModelError: another model, something in it that the native class cannot do or that is not known,
            files that are missing or broken, or a folder that holds something else.
    """
    folder, result = Path(checkpoint), Path(out)
    if not folder.is_dir():
        raise ModelError(
            "there is no such folder",
            field="checkpoint",
            value=str(checkpoint),
            remedy="download the model first: hf download REPOSITORY --local-dir FOLDER",
        )
    config = read_json(folder / "config.json")
    plan = plan_of(config, ignore)
    sources = _sources(folder)
    parts = {name: _parts(plan, shard) for name, shard in sources.items()}
    tokenizer = converted_tokenizer(folder)
    chat = chat_template(plan) if template is None else template
    native = _native_config(plan, tokenizer, _with_head(parts))
    _check(native, sources, parts)
    _check_tied(plan, sources)
    fingerprint = _digest_of([config, chat, sorted(ignore)])
    record = open_record(result, KIND, fingerprint)
    with file_errors(ModelError, "write the result", "out", result, AGAIN):
        _check_room(sources, result)
        kept = _convert_shards(sources, parts, result, record, progress)
        _write_rest(plan, native, tokenizer, chat, parts, result)
        record.finished = True
        record.save(result)
    return Conversion(
        folder=result,
        shards=len(sources),
        kept=kept,
        read=sum(len(shard.tensors) for shard in sources.values()),
        written=sum(len(of) for of in parts.values()),
        bytes=_weight(sources),
        decoder=native.text_config.model_type,
    )


# -- what is read ------------------------------------------------------------------------------


def _sources(folder: Path) -> dict[str, Shard]:
    """The weights of a checkpoint by file name.

    Raises:
        ModelError: pickles only, files that are missing, or that hold other tensors than the index says.
    """
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX).get("weight_map") or {}
        missing = sorted({file for file in index.values() if not (folder / file).is_file()})
        if missing:
            raise ModelError(
                f"{len(missing)} of {len(set(index.values()))} files of weights are missing: "
                f"{', '.join(missing[:3])}",
                field="checkpoint",
                value=str(folder),
                remedy="download the rest of the model",
            )
        shards = {file: read_shard(folder / file) for file in sorted(set(index.values()))}
        _check_index(index, shards)
        return shards
    if (folder / SINGLE).is_file():
        return {SINGLE: read_shard(folder / SINGLE)}
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    raise ModelError(
        "the weights are pickles, which can run any code when they are opened"
        if pickles
        else "the checkpoint has no weights",
        field="checkpoint",
        value=pickles[:3] or str(folder),
        remedy="take a revision of the model with safetensors, or save it as such where you trust it"
        if pickles
        else "download the whole repository of the model",
    )


def _check_index(index: Mapping[str, str], shards: Mapping[str, Shard]) -> None:
    held = {name: file for file, shard in shards.items() for name in shard.tensors}
    counts = Counter(name for shard in shards.values() for name in shard.tensors)
    wrong = sorted(set(index.items()) ^ set(held.items()))
    twice = sorted(name for name, count in counts.items() if count > 1)
    if wrong or twice:
        name = twice[0] if twice else wrong[0][0]
        raise ModelError(
            f"{INDEX} and the files do not hold the same tensors: {name}"
            + (" is there twice" if twice else ""),
            field="checkpoint",
            value=len(wrong) + len(twice),
            remedy="get the index and all files from one revision of the model",
        )


def _parts(plan: Plan, shard: Shard) -> list[Part]:
    return [
        part for name, tensor in shard.tensors.items() for part in plan.names.parts(name, tensor)
    ]


# -- what is checked ---------------------------------------------------------------------------


def _with_head(parts: Mapping[str, Sequence[Part]]) -> bool:
    return any(part.name == _HEAD for of in parts.values() for part in of)


def _native_config(plan: Plan, tokenizer: Any, with_head: bool) -> Any:
    """The native config; an output layer that the checkpoint holds is taken over as it is."""
    from transformers import InternVLConfig

    native = InternVLConfig(
        **plan.native,
        image_token_id=tokenizer.convert_tokens_to_ids(CONTEXT),
        tie_word_embeddings=plan.tied and not with_head,
        architectures=["InternVLForConditionalGeneration"],
    )
    native.dtype = plan.dtype
    return native


def _check(native: Any, sources: Mapping[str, Shard], parts: Mapping[str, Sequence[Part]]) -> None:
    """Hold the tensors to come against those of the native class.

    Raises:
        ModelError: some are missing, are too many, or have another shape.
    """
    shapes = {}
    for file, of in parts.items():
        for part in of:
            shape = sources[file].tensors[part.source].shape
            rows = sum(last - first for first, last in part.rows)
            shapes[part.name] = ((rows, *shape[1:]) if shape else (), part.source)
    wanted = _native_shapes(native)
    missing, extra = sorted(set(wanted) - set(shapes)), sorted(set(shapes) - set(wanted))
    if missing or extra:
        names = missing or [shapes[name][1] for name in extra]
        raise ModelError(
            f"the native model has {len(missing)} tensors that the checkpoint does not give: "
            f"{', '.join(names[:3])}"
            if missing
            else f"the checkpoint has {len(extra)} tensors that its config does not tell of: "
            f"{', '.join(names[:3])}",
            field="checkpoint",
            value=len(names),
            remedy="download the rest of the model, and config.json of the same revision",
        )
    for name, (shape, source) in shapes.items():
        if shape != wanted[name]:
            raise ModelError(
                f"{source} gives {name} the shape {list(shape)}, but by the config it is "
                f"{list(wanted[name])}",
                field="checkpoint",
                value=source,
                remedy="get config.json and the weights from one revision of the model",
            )


def _native_shapes(native: Any) -> dict[str, tuple[int, ...]]:
    """Tensors of the native class by the names that its checkpoints have."""
    import torch
    from transformers import InternVLForConditionalGeneration

    with torch.device("meta"):
        model = InternVLForConditionalGeneration(native)
    out = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            if native.tie_word_embeddings:
                continue
            name = _HEAD
        elif name.startswith("model.language_model."):
            name = name.replace("model.language_model.", "language_model.model.", 1)
        out[name.removeprefix("model.")] = tuple(tensor.shape)
    return out


def _check_tied(plan: Plan, sources: Mapping[str, Shard]) -> None:
    """Refuse an output layer that should be the embedding and is not.

    Raises:
        ModelError: which of the two counts is not told.
    """
    found = {
        part.name: shard.digest(part.source)
        for shard in sources.values()
        for name, tensor in shard.tensors.items()
        if plan.tied
        for part in plan.names.parts(name, tensor)
        if part.name in (_HEAD, _EMBEDDING)
    }
    if len(set(found.values())) > 1:
        raise ModelError(
            "the config ties the output layer to the embedding, but the checkpoint holds two",
            field="config.llm_config.tie_word_embeddings",
            value=True,
            remedy="set it to false in config.json if the model was trained so",
        )


def _digest_of(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


# -- what is written ---------------------------------------------------------------------------


def _check_room(sources: Mapping[str, Shard], result: Path) -> None:
    """Refuse a disk that is too full for what is still to be written."""
    there = sum(path.stat().st_size for path in result.glob("*.safetensors"))
    needed, free = _weight(sources) - there, shutil.disk_usage(result).free
    if needed > free:
        raise ModelError(
            f"the result takes {needed / 1e9:.1f} GB more, and the disk has {free / 1e9:.1f} GB",
            field="out",
            value=str(result),
            remedy=f"make room, or give a folder on another disk; then {AGAIN}",
        )


def _convert_shards(
    sources: Mapping[str, Shard],
    parts: Mapping[str, Sequence[Part]],
    result: Path,
    record: Record,
    progress: Callable[[str], None],
) -> int:
    """Write the shards that are not there yet; how many were."""
    record.finished = False
    record.save(result)
    kept = 0
    for number, (file, source) in enumerate(sources.items(), 1):
        line = f"{number}/{len(sources)} {file}"
        made = record.shards.get(file)
        if made is not None and made.of_source(source) and _holds(result / file, parts[file], made):
            progress(f"{line}: there already, checked")
            kept += 1
            continue
        digests = {name: source.digest(name) for name in source.tensors}
        made = ShardRecord(source.size, source.header, digests)
        write_shard(result / file, source, parts[file])
        if not _holds(result / file, parts[file], made):
            raise ModelError(
                f"{file} was written, but what can be read back is not what was read",
                field="out",
                value=str(result / file),
                remedy=f"look at the disk, then {AGAIN}",
            )
        record.shards[file] = made
        record.save(result)
        progress(f"{line}: {len(digests)} tensors, written and checked")
    return kept


def _holds(path: Path, parts: Sequence[Part], made: ShardRecord) -> bool:
    """Whether a file holds the tensors that a source had, put together again from its own."""
    try:
        written = read_shard(path)
    except (ModelError, OSError):
        return False
    if {part.name for part in parts} != set(written.tensors):
        return False
    by_source: dict[str, list[Part]] = {}
    for part in parts:
        by_source.setdefault(part.source, []).append(part)
    return set(by_source) == set(made.tensors) and all(
        digest_of_source(written, of) == made.tensors[name] for name, of in by_source.items()
    )


def _write_rest(
    plan: Plan,
    native: Any,
    tokenizer: Any,
    chat: str,
    parts: Mapping[str, Sequence[Part]],
    result: Path,
) -> None:
    """Config, index, tokenizer, processor and chat template."""
    native.save_pretrained(result)
    tokenizer.save_pretrained(result)
    (result / "chat_template.jinja").write_text(chat, encoding="utf-8")
    _write_json(result / "processor_config.json", processor_config(plan))
    _write_json(result / "generation_config.json", generation_config(plan, tokenizer))
    if set(parts) != {SINGLE}:
        index = {part.name: file for file, of in parts.items() for part in of}
        written = {file: read_shard(result / file) for file in parts}
        _write_json(
            result / INDEX,
            {
                "metadata": {"total_size": _weight(written)},
                "weight_map": dict(sorted(index.items())),
            },
        )


def _weight(shards: Mapping[str, Shard]) -> int:
    return sum(tensor.size for shard in shards.values() for tensor in shard.tensors.values())


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
