"""`lightkv convert`: what it writes, how it goes on, what it refuses."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from standins.chat_checkpoint import INDEX, sentencepiece_model, write_checkpoint
from transformers import AutoConfig, AutoTokenizer

from lightkv.checkpoints.convert import convert_internvl2, internvl2
from lightkv.core.errors import ModelError

FILES = [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
SMALL = {"text": {"num_hidden_layers": 2}}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    write_checkpoint(folder, **SMALL)
    return folder


@pytest.fixture
def refused(fails, source, tmp_path):
    """The error line for a spoiled source; nothing was written."""

    def run(*options, out=tmp_path / "out", written=False):
        line = fails("convert", "internvl2", source, out, *options)
        assert out.exists() == written
        return line

    return run


def change_json(path, **changes):
    found = json.loads(path.read_text())
    for name, value in changes.items():
        inner, _, last = name.rpartition("__")
        (found[inner] if inner else found)[last] = value
    path.write_text(json.dumps(found))


def test_it_says_what_it_wrote(call, source, tmp_path):
    result = call("convert", "internvl2", source, tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    words = " ".join(result.stdout.split())
    assert "in 3 files." in words
    assert "Each of the 55 tensors was used once (67 in the native form, decoder llama)" in words
    assert f"1/3 {FILES[0]}" in result.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {*FILES, INDEX, "config.json", "generation_config.json", "tokenizer.json"} < names
    assert {"processor_config.json", "chat_template.jinja", "tokenizer_config.json"} < names
    assert not [name for name in names if name.endswith(".part") or name.endswith(".py")]
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert config.text_config.rope_parameters["rope_type"] == "dynamic"
    assert config.image_token_id == 192


def test_one_file_stays_one_file(tmp_path):
    write_checkpoint(tmp_path / "source", "qwen2", shards=1, dtype=torch.bfloat16, **SMALL)
    done = convert_internvl2(tmp_path / "source", tmp_path / "out")
    assert done.shards == 1
    assert not (tmp_path / "out" / INDEX).exists()
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


# -- going on ----------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on(source, tmp_path, monkeypatch):
    out, write = tmp_path / "out", internvl2.write_shard

    def until(path, *args):
        if path.name == FILES[1]:
            path.with_name(path.name + ".part").write_bytes(b"half")
            raise KeyboardInterrupt
        write(path, *args)

    monkeypatch.setattr(internvl2, "write_shard", until)
    with pytest.raises(KeyboardInterrupt):
        convert_internvl2(source, out)
    assert not (out / FILES[1]).exists()
    monkeypatch.undo()
    first = (out / FILES[0]).stat().st_mtime_ns
    assert convert_internvl2(source, out).kept == 1
    assert (out / FILES[0]).stat().st_mtime_ns == first
    assert not list(out.glob("*.part"))
    assert convert_internvl2(source, out).kept == 3


def test_a_finished_file_that_was_spoiled_is_written_again(source, tmp_path):
    out = tmp_path / "out"
    convert_internvl2(source, out)
    data = bytearray((out / FILES[2]).read_bytes())
    data[-5] ^= 1
    (out / FILES[2]).write_bytes(data)
    assert convert_internvl2(source, out).kept == 2
    data[-5] ^= 1
    assert (out / FILES[2]).read_bytes() == bytes(data)


def test_another_source_does_not_go_on(source, refused, tmp_path):
    out = tmp_path / "out"
    convert_internvl2(source, out)
    change_json(source / "config.json", llm_config__rms_norm_eps=1e-6)
    assert "conversion of another checkpoint" in refused(out=out, written=True)


def test_a_shard_whose_source_changed_is_written_again(source, tmp_path):
    out = tmp_path / "out"
    convert_internvl2(source, out)
    weights = load_file(source / FILES[0])
    save_file(weights, source / FILES[0], metadata={"format": "pt", "from": "elsewhere"})
    assert convert_internvl2(source, out).kept == 2


# -- what is read back -------------------------------------------------------------------------


def test_what_is_written_is_compared_with_the_source(source, tmp_path, monkeypatch):
    write = internvl2.write_shard

    def spoil(path, *args):
        write(path, *args)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr(internvl2, "write_shard", spoil)
    with pytest.raises(ModelError, match="read back"):
        convert_internvl2(source, tmp_path / "out")


# -- what is refused ---------------------------------------------------------------------------


def test_folders(fails, source, refused, tmp_path):
    assert "no such folder" in fails("convert", "internvl2", tmp_path / "no", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert "it holds notes.txt" in refused(out=tmp_path / "full", written=True)
    (tmp_path / "file").write_text("")
    assert "it is a file" in refused(out=tmp_path / "file", written=True)
    assert "it holds" in refused(out=source, written=True)
    (tmp_path / "full" / "lightkv_conversion.json").write_text("{}")
    assert "record" in refused(out=tmp_path / "full", written=True)


def test_half_a_checkpoint(source, refused):
    whole = (source / FILES[1]).read_bytes()
    (source / FILES[1]).write_bytes(whole[:-100])
    assert "header tells of" in refused()
    (source / FILES[1]).write_bytes(whole[:4])
    assert "no whole safetensors file" in refused()
    (source / FILES[1]).write_bytes(b"\x08" + bytes(7) + b"[1, 2, 3" + whole)
    assert "no whole safetensors file" in refused()
    (source / FILES[1]).unlink()
    assert f"1 of 3 files of weights are missing: {FILES[1]}" in refused()
    (source / INDEX).unlink()
    assert "no weights" in refused()
    (source / "pytorch_model.bin").write_bytes(b"")
    assert "pickles" in refused()
    (source / "config.json").write_text("{")
    assert "cannot read config.json" in refused()
    (source / "config.json").write_text("[]")
    assert "no object" in refused()
    (source / "config.json").unlink()
    assert "no config.json" in refused()


def test_tensors_that_do_not_fit(source, refused):
    file = source / FILES[0]
    weights = load_file(file)

    def save(changes):
        new = {
            name: tensor for name, tensor in {**weights, **changes}.items() if tensor is not None
        }
        save_file(new, file)
        index = json.loads((source / INDEX).read_text())
        index["weight_map"] = {n: f for n, f in index["weight_map"].items() if f != FILES[0]}
        index["weight_map"] |= dict.fromkeys(new, FILES[0])
        (source / INDEX).write_text(json.dumps(index))

    name = "language_model.model.layers.0.attention.wqkv.weight"
    save({"language_model.model.layers.0.attention.lora_A.weight": torch.zeros(2, 2)})
    assert "not known: language_model.model.layers.0.attention.lora_A.weight" in refused()
    save({name: None})
    assert "does not give: language_model.model.layers.0.self_attn.k_proj" in refused()
    save({name: torch.zeros(130, 64)})
    assert f"{name} has rows that are not query, key and value" in refused()
    save({name: torch.zeros(128, 32)})
    assert (
        f"{name} gives language_model.model.layers.0.self_attn.q_proj.weight the shape" in refused()
    )
    save({"language_model.model.layers.7.ffn_norm.weight": torch.zeros(64)})
    assert "does not tell of: language_model.model.layers.7.ffn_norm.weight" in refused()
    save({name: torch.zeros(128, 64, dtype=torch.int8)})
    assert "type I8" in refused()
    save({})
    change_json(source / INDEX, weight_map__mlp1="x")
    change_json(source / INDEX, weight_map={"mlp1.0.weight": FILES[0]})
    assert "do not hold the same tensors" in refused()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "llava"}, "no checkpoint of InternVLChatModel"),
        ({"architectures": ["InternVLForConditionalGeneration"]}, "native form already"),
        ({"llm_config__architectures": ["Phi3ForCausalLM"]}, "its decoder is Phi3ForCausalLM"),
        ({"ps_version": "v1"}, "column by column"),
        ({"pad2square": True}, "padded to squares"),
        ({"use_llm_lora": 16}, "LoRA in the decoder"),
        ({"use_thumbnail": False}, "adds a thumbnail"),
        ({"new_switch": 3}, "config.new_switch"),
        ({"template": "vicuna"}, "has a template that is not known"),
        ({"vision_config__use_moe": True}, "mixture of experts"),
        ({"vision_config__norm_type": "group"}, "no such norm"),
        ({"vision_config__new_switch": True}, "config.vision_config.new_switch"),
        ({"llm_config__rope_scaling": {"type": "yarn", "factor": 2.0}}, "no such rotary scaling"),
        ({"llm_config__rope_pos_id_version": "v2pe"}, "V2PE"),
        ({"llm_config__hidden_size": None}, "does not say this size"),
        ({"llm_config__num_key_value_heads": 3}, "do not go into one another"),
        ({"llm_config__new_switch": "on"}, "--ignore-field new_switch"),
    ],
    ids=str,
)
def test_configs(changes, words, source, refused):
    change_json(source / "config.json", **changes)
    assert words in refused()


def test_a_norm_of_queries_with_another_epsilon(fails, tmp_path):
    vision = {"qk_normalization": True, "layer_norm_eps": 1e-5}
    write_checkpoint(tmp_path / "source", vision=vision, **SMALL)
    assert "epsilon" in fails("convert", "internvl2", tmp_path / "source", tmp_path / "out")


def test_what_the_user_knows_better(ok_json, source, tmp_path):
    change_json(source / "config.json", new_switch=3, template="mine")
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    options = ("--ignore-field", "new_switch", "--chat-template", tmp_path / "mine.jinja")
    done = ok_json("convert", "internvl2", source, tmp_path / "out", *options, "--json")
    assert (done["folder"], done["shards"]) == (str(tmp_path / "out"), 3)
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"


def test_a_template_that_is_not_there(refused, tmp_path):
    assert "cannot read the chat template" in refused("--chat-template", tmp_path / "no")


def test_a_full_disk(refused, monkeypatch):
    monkeypatch.setattr(internvl2.shutil, "disk_usage", lambda _: type("D", (), {"free": 10})())
    assert "the disk has 0.0 GB" in refused(written=True)


def test_two_output_layers(fails, tmp_path):
    source = tmp_path / "source"
    write_checkpoint(source, "qwen2", **SMALL)
    change_json(source / "config.json", llm_config__tie_word_embeddings=True)
    line = fails("convert", "internvl2", source, tmp_path / "out")
    assert "ties the output layer to the embedding, but the checkpoint holds two" in line


# -- tokenizers --------------------------------------------------------------------------------


def test_tokenizers_that_cannot_be_read(source, refused):
    settings = source / "tokenizer_config.json"
    whole = (source / "tokenizer.model").read_bytes()
    change_json(source / "added_tokens.json", **{"</img>": 195})
    assert "<IMG_CONTEXT> would have id 191" in refused()
    (source / "added_tokens.json").write_text('{"<img>": 190, "</img>": 191}')
    assert "no <IMG_CONTEXT>" in refused()
    change_json(settings, legacy=False)
    assert "first part of a text only" in refused()
    pieces = [("<unk>", 0.0, 2)]
    (source / "tokenizer.model").write_bytes(sentencepiece_model(pieces, kind=1))
    assert "no model of byte pairs" in refused()
    (source / "tokenizer.model").write_bytes(sentencepiece_model(pieces, charsmap=b"x"))
    assert "by a table" in refused()
    for broken in (whole[:-3], b"\xff\xff\xff"):
        (source / "tokenizer.model").write_bytes(broken)
        assert "no SentencePiece model" in refused()
    (source / "tokenizer.json").write_text("{}")
    assert "tokenizer.json cannot be read" in refused()
    (source / "tokenizer.json").unlink()
    (source / "tokenizer.model").unlink()
    assert "no vocabulary" in refused()
    settings.unlink()
    assert "no tokenizer_config.json" in refused()


def test_ids_of_a_sentencepiece_model(source, tmp_path):
    """By hand: a space before each part, the longest merges, bytes for what is no piece."""
    convert_internvl2(source, tmp_path / "out")
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "<|im_start|>user\nhello the<|im_end|><img><IMG_CONTEXT></img>"
    tokens = words.convert_ids_to_tokens(words(text)["input_ids"])
    assert tokens == [
        *("<s>", "<|im_start|>", "▁", "u", "s", "er", "<0x0A>", "hello", "▁the", "<|im_end|>"),
        *("<img>", "<IMG_CONTEXT>", "</img>"),
    ]
    ids = words.convert_tokens_to_ids(["<s>", "<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>"])
    assert ids == [1, 188, 189, 192]
    assert words.decode(words("hello the")["input_ids"], skip_special_tokens=True) == "hello the"
    assert (words.pad_token, words.padding_side) == ("</s>", "left")
    assert words.context_image_token_id == 192


@pytest.mark.parametrize("decoder", ["internlm2", "qwen2"])
def test_the_conversation_is_that_of_the_checkpoint(decoder, tmp_path):
    write_checkpoint(tmp_path / "source", decoder, **SMALL)
    convert_internvl2(tmp_path / "source", tmp_path / "out")
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    picture = [{"type": "image"}, {"type": "text", "text": "what?"}]
    turns = [{"role": "user", "content": picture}, {"role": "assistant", "content": "this"}]
    text = words.apply_chat_template(
        [{"role": "system", "content": "be short"}, *turns, turns[0]],
        tokenize=False,
        add_generation_prompt=True,
    )
    end = "<|im_end|>\n" if decoder == "qwen2" else "<|im_end|>"
    assert text == (
        f"<|im_start|>system\nbe short{end}<|im_start|>user\n<IMG_CONTEXT>\nwhat?{end}"
        f"<|im_start|>assistant\nthis{end}<|im_start|>user\n<IMG_CONTEXT>\nwhat?{end}"
        "<|im_start|>assistant\n"
    )
    first = words.apply_chat_template(turns[:1], tokenize=False)
    assert first.startswith("<|im_start|>system\n你")
    made = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert made["eos_token_id"][0] == 189
