"""Checkpoints of the stand-in of InternVL2, with the names and files that published ones have."""

import json
import struct

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from standins.internvl_chat import InternVLChatModel, chat_config, spaced

WORDS = ["he", "ll", "o", "hell", "hello", "in", "th", "the", "er"]
LETTERS = [chr(code) for code in range(33, 127) if chr(code) not in WORDS]
CHAT = {"<|im_start|>": 188, "<|im_end|>": 189}
PICTURE = {"<img>": 190, "</img>": 191, "<IMG_CONTEXT>": 192}
CONTEXT = 192
INDEX = "model.safetensors.index.json"


def write_checkpoint(folder, decoder="internlm2", shards=3, dtype=torch.float32, seed=0, **changes):
    """Write a checkpoint; the model that it is of."""
    folder.mkdir(parents=True, exist_ok=True)
    config = chat_config(decoder, **changes)
    (folder / "config.json").write_text(json.dumps(config))
    model = make_model(config, seed).to(dtype)
    write_weights(folder, weights_of(model), shards)
    TOKENIZERS[decoder](folder)
    return model


def make_model(config, seed=0):
    torch.manual_seed(seed)
    model = InternVLChatModel(spaced(config)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:  # norms, biases and layer scales that are all alike hide mistakes
                weight += 0.1 * torch.randn_like(weight)
            elif "language_model" in name:
                weight.normal_(0, 0.1)
    model.img_context_token_id = CONTEXT
    return model


def weights_of(model):
    """The tensors of a checkpoint; a tied output layer is left out, as safetensors does."""
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if model.config.llm_config.tie_word_embeddings:
        weights.pop("language_model.lm_head.weight", None)
    return weights


def write_weights(folder, weights, shards):
    names = sorted(weights)
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    index = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = names[number * len(names) // shards : (number + 1) * len(names) // shards]
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))


def write_hollow(folder, shards, **changes):
    """A checkpoint of any size whose weights are zeros that take no room on the disk."""
    folder.mkdir(parents=True)
    config = chat_config(torch_dtype="bfloat16", **changes)
    (folder / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in InternVLChatModel(spaced(config)).state_dict().items()}
    index, names = {}, sorted(shapes)
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        fields, end = {}, 0
        for name in names[number * len(names) // shards : (number + 1) * len(names) // shards]:
            start, end = end, end + 2 * shapes[name].numel()
            fields[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [start, end]}
            index[name] = file
        head = json.dumps(fields).encode()
        with (folder / file).open("wb") as opened:
            opened.write(len(head).to_bytes(8, "little") + head)
            opened.truncate(8 + len(head) + end)
    (folder / INDEX).write_text(json.dumps({"weight_map": index}))
    write_internlm2(folder)


# -- tokenizers: a SentencePiece model, a byte-level vocabulary, a whole tokenizer.json ------------


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def message(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def number_field(number, value):
    return varint(number << 3) + varint(value)


def sentencepiece_model(pieces, *, kind=2, dummy_prefix=1, single_spaces=0, charsmap=b""):
    """A model file of (text, score, kind of piece)."""
    out = b""
    for text, score, of in pieces:
        body = message(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score)
        out += message(1, body + number_field(3, of))
    normal = message(1, b"identity") + (message(2, charsmap) if charsmap else b"")
    normal += number_field(3, dummy_prefix) + number_field(4, single_spaces)
    return out + message(2, number_field(3, kind)) + message(3, normal)


def internlm2_pieces():
    """188 pieces and two that the chat tokens take over."""
    out = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("<0x0A>", 0.0, 6)]
    merged = [
        *(word for word in WORDS if len(word) > 1),
        "▁hello",
        "▁the",
        "▁th",
        "▁t",
        "▁he",
        "▁h",
    ]
    out += [(text, -float(number), 1) for number, text in enumerate(merged)]
    singles = ["▁", *LETTERS, "o"]
    out += [(text, -100.0 - number, 1) for number, text in enumerate(singles)]
    out += [(f"[UNUSED_{number}]", -1000.0, 4) for number in range(190 - len(out))]
    return out


def write_internlm2(folder):
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(internlm2_pieces()))
    (folder / "added_tokens.json").write_text(json.dumps(PICTURE))
    settings = {
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "added_tokens_decoder": {str(id): {"content": text} for text, id in CHAT.items()},
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 8192,
        "tokenizer_class": "InternLM2Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_qwen2(folder):
    pairs = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("t", "h"), ("th", "e")]
    texts = ["Ġ", "Ċ", *LETTERS, "o", *("".join(pair) for pair in pairs)]
    texts += [f"[unused{number}]" for number in range(187 - len(texts))]
    vocabulary = {text: id for id, text in enumerate(texts)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, pairs)]))
    added = {"<|endoftext|>": 187, **CHAT, **PICTURE}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    settings = {
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_llama(folder):
    texts = ["<unk>", "<s>", "</s>", *LETTERS, "o", "hello", "the"]
    texts += [f"[unused{number}]" for number in range(188 - len(texts))]
    core = Tokenizer(
        models.WordLevel({text: id for id, text in enumerate(texts)}, unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens([*CHAT, *PICTURE])
    core.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "LlamaTokenizer"}
    settings["added_tokens_decoder"] = {
        str(id): {"content": text} for text, id in {**CHAT, **PICTURE}.items()
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


TOKENIZERS = {"internlm2": write_internlm2, "qwen2": write_qwen2, "llama": write_llama}
