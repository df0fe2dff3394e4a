"""The tokenizer of an InternVL2 checkpoint as one that transformers loads without the checkpoint's code.

Its own class is remote code and is not run. The vocabulary is taken from what is in the folder:
`tokenizer.json`, or a SentencePiece model, or `vocab.json` with `merges.txt`. Every token that the
checkpoint adds must have the id that the checkpoint gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightkv.checkpoints.convert.internvl2_config import read_json
from lightkv.checkpoints.convert.sentencepiece_file import byte_pair_tokenizer, read_sentencepiece
from lightkv.core.errors import ModelError

CONTEXT = "<IMG_CONTEXT>"
NAMED = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": CONTEXT,
    "video_token": "<video>",
}
"""What the native processor calls the tokens around and inside a picture."""
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
_OF_LLAMA = ("InternLM2Tokenizer", "InternLM2TokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast")
"""Classes that write the start token before a text, unless their settings say otherwise."""


def converted_tokenizer(folder: Path) -> Any:
    """A fast tokenizer with the vocabulary, the added tokens and the special tokens of the folder.

    Raises:
        ModelError: no vocabulary is there, one that is not known, or ids that do not come out.
    """
    from transformers import PreTrainedTokenizerFast

    settings = read_json(folder / "tokenizer_config.json")
    added = _added(folder, settings)
    core = _backend(folder, settings, added)
    for token, id in sorted(added.items(), key=lambda item: item[1]):
        if core.token_to_id(token) is None or token not in _registered(core):
            core.add_special_tokens([token])
        if core.token_to_id(token) != id:
            raise ModelError(
                f"the added token {token} would have id {core.token_to_id(token)}",
                field="checkpoint",
                value=id,
                remedy="get the tokenizer's files again: the vocabulary is not the one that the added "
                "tokens belong to",
            )
    _check_placeholders(core)
    named = {key: text for key in _SPECIAL if (text := _text(folder, settings, key)) is not None}
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        extra_special_tokens=NAMED,
        model_max_length=settings.get("model_max_length", 8192),
        clean_up_tokenization_spaces=False,
        padding_side="left",
        **named,
        **_ends(folder, settings, named),
    )


def _added(folder: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    """Tokens that the checkpoint adds to its vocabulary → their ids."""
    out = {}
    path = folder / "added_tokens.json"
    if path.is_file():
        out |= {str(token): int(id) for token, id in read_json(path).items()}
    for id, token in (settings.get("added_tokens_decoder") or {}).items():
        out[str(token["content"])] = int(id)
    return out


def _backend(folder: Path, settings: Mapping[str, Any], added: Mapping[str, int]) -> Any:
    from tokenizers import Tokenizer
    from transformers import Qwen2Tokenizer

    whole, model = folder / "tokenizer.json", folder / "tokenizer.model"
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    if whole.is_file():
        try:
            return Tokenizer.from_file(str(whole))
        except Exception as error:
            raise ModelError(
                f"tokenizer.json cannot be read ({error})",
                field="checkpoint",
                value=str(whole),
                remedy="get this file again",
            ) from error
    if model.is_file():
        once = settings.get("legacy") is False
        return byte_pair_tokenizer(read_sentencepiece(model), added, prefix_once=once)
    if vocabulary.is_file() and merges.is_file():
        # The added tokens come later, with their own ids.
        first = Qwen2Tokenizer(vocab=str(vocabulary), merges=str(merges)).backend_tokenizer
        return _without_added(first)
    raise ModelError(
        "the checkpoint has no vocabulary: neither tokenizer.json, tokenizer.model nor vocab.json with "
        "merges.txt",
        field="checkpoint",
        value=str(folder),
        remedy="download the whole repository of the model",
    )


def _without_added(tokenizer: Any) -> Any:
    """The same model and steps, with nothing added yet."""
    from tokenizers import Tokenizer

    out = Tokenizer(tokenizer.model)
    out.normalizer, out.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    out.decoder = tokenizer.decoder
    return out


def _registered(core: Any) -> set[str]:
    return {token.content for token in core.get_added_tokens_decoder().values()}


def _text(folder: Path, settings: Mapping[str, Any], key: str) -> str | None:
    """A special token, written as text or with its flags, in either of two files."""
    value = settings.get(key)
    path = folder / "special_tokens_map.json"
    if value is None and path.is_file():
        value = read_json(path).get(key)
    return value["content"] if isinstance(value, dict) else value


def _ends(folder: Path, settings: Mapping[str, Any], named: Mapping[str, str]) -> dict[str, bool]:
    """Whether the start token is written; nothing where `tokenizer.json` says it itself."""
    said = settings.get("add_bos_token")
    if said is None and (folder / "tokenizer.json").is_file():
        return {}
    if said is None:
        said = settings.get("tokenizer_class") in _OF_LLAMA
    return {"add_bos_token": bool(said) and "bos_token" in named}


def _check_placeholders(core: Any) -> None:
    for token in NAMED.values():
        # No model reads `<video>`: the processor writes frames in its place, and it gets a new id.
        if core.token_to_id(token) is None and token != NAMED["video_token"]:
            raise ModelError(
                f"the tokenizer has no {token}",
                field="checkpoint",
                value=token,
                remedy="get the tokenizer's files again (added_tokens.json, tokenizer_config.json)",
            )
