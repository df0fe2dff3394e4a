"""`lightkv run` on a checkpoint directory, and everything that can be wrong with one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig

from lightkv.checkpoints.answers import Answer, Compared, Spread, typical
from lightkv.checkpoints.pictures import open_image
from lightkv.checkpoints.prompts import build_inputs
from lightkv.checkpoints.remarks import remarks
from lightkv.core.pipeline.pipeline import get_preset
from lightkv.core.run.report import RunReport, SampleReport
from lightkv.demo.scenes import prompt as demo_prompt
from training.architecture import PREFIX, make_model, make_processor

SHORT = ("--max-new-tokens", 3)
ASK = ("--prompt", "list all digits")


def test_answer_and_report(ok, checkpoint, picture):
    text = ok("run", "--model", checkpoint, "--image", picture, *ASK, *SHORT)
    assert "lightkv, run 0: retention 0.5" in text
    assert "Retention 0.55 is the default of the preset 'lightkv'" in " ".join(text.split())
    assert "first token" in text
    assert "vanilla:" not in text


def test_compare_shows_both(ok, ok_json, bundled, picture):
    args = ("run", "--model", "demo", "--image", picture, *ASK, *SHORT, "--compare")
    text = ok(*args)
    assert "vanilla:" in text
    assert "whole answer" in text
    assert "median of 3 runs in turns" in " ".join(text.split())
    data = ok_json(*args, "--strategy", "tome", "--retention", 0.6, "--json")
    assert data["report"]["strategy"] == "tome"
    assert data["report"]["retention"] == pytest.approx(0.6, abs=0.02)
    assert data["vanilla"]["report"]["retention"] == 1.0
    assert data["vanilla"]["report"]["strategy"] == "vanilla"
    assert data["same_answer"] == (data["answer"] == data["vanilla"]["answer"])
    assert data["new_tokens"] <= 3
    assert data["runs"] == 3
    for pair in data["times"].values():
        for side in ("vanilla", "compressed"):
            assert 0 < pair[side]["low"] <= pair[side]["median"] <= pair[side]["high"]


def test_full_retention_answers_as_vanilla(ok_json, bundled, picture):
    args = ("run", "--model", "demo", "--image", picture, *ASK, "--max-new-tokens", 12)
    data = ok_json(*args, "--retention", 1, "--compare", "--json")
    assert data["same_answer"]


def test_percent_is_a_retention(ok_json, bundled, picture):
    args = ("run", "--model", "demo", "--image", picture, *ASK, *SHORT, "--json")
    for text in ("60%", "image=60%"):
        report = ok_json(*args, "--retention", text)["report"]
        assert report["retention"] == ok_json(*args, "--retention", 0.6)["report"]["retention"]


def test_pipeline_file_and_several_pictures(ok_json, bundled, picture, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(get_preset("fastv").to_yaml())
    data = ok_json(
        *("run", "--model", "demo", "--image", picture, "--image", picture, *ASK, *SHORT),
        *("--pipeline", file, "--json"),
    )
    assert data["report"]["strategy"] == "fastv"
    assert data["report"]["samples"][0]["vision_tokens"][0] == 2 * 144


def test_single_values_of_the_pipeline(ok_json, fails, bundled, picture, monkeypatch, tmp_path):
    args = ("run", "--model", "demo", "--image", picture, *ASK, *SHORT, "--json")
    by_keys = ("--set", "matcher.metric=keys", "--set", "name=by keys")
    data = ok_json(*args, *by_keys)
    assert data["report"]["strategy"] == "by keys"
    assert any("default of the preset 'lightkv'" in remark for remark in data["remarks"])
    file = tmp_path / "mine.yaml"
    file.write_text("base: lightkv\nmatcher: {metric: keys}\n")
    same = ok_json(*args, "--pipeline", file)["report"]
    assert same["samples"] == data["report"]["samples"]
    data = ok_json(*args, "--set", "schedule.retention=0.4")
    assert data["report"]["asked_retention"] == 0.4
    assert not any("default of" in remark for remark in data["remarks"])
    # Mistakes show before the model is loaded.
    monkeypatch.setattr("lightkv.checkpoints.load.load_model", None)
    assert "parameters are: metric" in fails(*args, "--set", "matcher.metrc=keys")
    assert "Did you mean 'matcher'" in fails(*args, "--set", "mather.metric=keys")
    assert "KEY=VALUE" in fails(*args, "--set", "matcher.metric")
    twice = fails(*args, "--retention", 0.5, "--set", "schedule.retention=0.4")
    assert "leave one of --set schedule.retention and --retention out" in twice


def test_without_pictures_nothing_is_compressed(ok_json, bundled):
    data = ok_json("run", "--model", "demo", *ASK, *SHORT, "--json")
    assert data["report"]["retention"] == 1.0
    (told,) = data["remarks"]
    assert "no picture" in told
    assert "--image FILE" in told


def timed(first, token, tokens=5, seconds=1.0, vision=100, **roles):
    """An answer with these times, of a report without tensors."""
    sample = SampleReport(
        text_tokens=20,
        vision_tokens=(vision,),
        kv_bytes=(1,),
        vision_kv_bytes=1,
        flops=60,
        flops_vanilla=100,
        compression_flops=1,
        original=vision,
    )
    report = RunReport(
        0, "lightkv", 0.5, (sample,), None, first, roles, 1, token, asked_retention=0.5
    )
    return Answer("x", tokens, seconds, report)


def beside(vanilla, compressed):
    return Compared(tuple(vanilla), tuple(compressed))


def test_why_it_was_slower():
    vanilla = [timed(t, 0.010) for t in (0.09, 0.1, 0.11)]
    slow = [timed(t, 0.012, matching=0.04, scoring=0.01) for t in (0.12, 0.13, 0.14)]
    first, later, unclear = remarks(typical(slow), beside(vanilla, slow))
    assert "took 130.0 ms instead of 100.0 ms, medians" in first
    assert "the stages took 50.0 ms (matching 40.0 ms" in first
    assert "saved only 20.0 ms. Of the FLOPs of this prompt of 120 tokens 60 % are left" in first
    assert later.startswith("Each further token took longer in every run. Likely causes")
    assert unclear.startswith("Of whole answer the times of 3 runs of each overlap")
    slower = 2 * [timed(0.2, 0.010, matching=0.05)]
    assert "were not faster" in remarks(slower[0], beside(vanilla, slower))[0]
    longer = 2 * [timed(0.08, 0.009, tokens=9, seconds=2.0)]
    (told,) = remarks(longer[0], beside(vanilla, longer))
    assert "has 9 tokens and the uncompressed one 5" in told
    faster = 2 * [timed(0.08, 0.009, seconds=0.9)]
    assert remarks(faster[0], beside(vanilla, faster)) == []
    (once,) = remarks(slower[0], beside(vanilla[:1], slower[:1]))
    assert once.startswith("One run of each was timed")
    blind = 2 * [timed(0.13, 0.009, vision=0, seconds=0.9)]
    told = remarks(blind[0], beside(vanilla, blind), default="the preset 'lightkv'")
    assert "no picture" in told[0]
    assert "nothing was compressed" in told[1]
    (default,) = remarks(timed(0.08, 0.010), None, default="the preset 'hired'")
    assert default.startswith("Retention 0.5 is the default of the preset 'hired'")


def test_no_cause_is_told_of_times_that_may_be_chance():
    """Eight times as long, and one run of the uncompressed model was as slow."""
    vanilla = [timed(t, 0.010) for t in (0.1, 0.1, 0.9)]
    noisy = [timed(t, 0.010, matching=0.01) for t in (0.8, 0.83, 0.85)]
    (told,) = remarks(typical(noisy), beside(vanilla, noisy))
    assert told == (
        "Of first token, each further token, whole answer the times of 3 runs of each overlap, so their "
        "difference may be chance."
    )


@given(a=st.lists(st.floats(1e-3, 1e3), min_size=1), b=st.lists(st.floats(1e-3, 1e3), min_size=1))
def test_spreads(a, b):
    one, two = Spread.of(a), Spread.of(b)
    assert one.low <= one.median <= one.high
    assert one.overlaps(one)
    apart = all(x < y for x in a for y in b) or all(x > y for x in a for y in b)
    assert one.overlaps(two) == two.overlaps(one) == (not apart)


def test_the_bundled_model_says_what_it_knows(ok_json, bundled, checkpoint, picture):
    args = ("--image", picture, *ASK, *SHORT, "--json")
    assert "handwritten digits" in ok_json("run", "--model", "demo", *args)["remarks"][0]
    told = ok_json("run", "--model", checkpoint, *args)["remarks"]
    assert not any("handwritten" in each for each in told)


def test_dtype(ok_json, bundled, picture):
    args = ("run", "--model", "demo", "--image", picture, *ASK, *SHORT, "--json")
    whole = ok_json(*args, "--dtype", "float32")["report"]["vision_kv_bytes"]
    assert ok_json(*args, "--dtype", "bfloat16")["report"]["vision_kv_bytes"] == whole / 2


def test_inputs_are_those_of_the_chat_template(picture):
    """One <bos>, one picture, the words as the model was trained on them."""
    model, processor = make_model(), make_processor()
    image = open_image(picture)
    inputs = build_inputs(processor, "what digit is red ?", [image], model)
    expected = processor(
        images=[image], text=[demo_prompt("what digit is red ?")], return_tensors="pt"
    )
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    words = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    assert words[: len(PREFIX)] == PREFIX


def test_inputs_without_chat_template(picture):
    model, processor = make_model(), make_processor()
    processor.chat_template = processor.tokenizer.chat_template = None
    inputs = build_inputs(processor, "what digit is red ?", [open_image(picture)], model)
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 144


def remove(*names):
    def change(folder):
        for name in names:
            (folder / name).unlink()

    return change


def write(name, text):
    def change(folder):
        (folder / name).write_text(text)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove("config.json"), ("lacks config.json", "save_pretrained")),
        (remove("model.safetensors"), ("lacks weights",)),
        (remove("processor_config.json"), ("lacks a processor",)),
        (write("config.json", "{"), ("JSON",)),
        (write("config.json", '{"model_type": "nosuch"}'), ("nosuch",)),
        (write("config.json", LlamaConfig().to_json_string()), ("'llama'", "vision-language")),
        (write("model.safetensors", "no weights"), ("cannot load the checkpoint",)),
    ],
)
def test_a_directory_that_is_no_checkpoint(fails, checkpoint, picture, tmp_path, change, words):
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint, folder)
    change(folder)
    line = fails("run", "--model", folder, "--image", picture, *ASK)
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--image", "none.png"), ("--image = 'none.png'", "no such file")),
        (("--strategy", "tomme"), ("Did you mean 'tome'",)),
        (("--retention", "2"), ("retention = 2",)),
        (("--retention", "0.001"), ("reach retentions from",)),
        (("--pipeline", "none.yaml"), ("none.yaml", "(No such file or directory)", "a preset")),
        (("--retention", "5 apples"), ("neither a number such as 0.55 or 55%",)),
        (("--retention", "155%"), ("retention = 1.55",)),
        (("--image", Path(__file__).parent), ("it is a folder", "a file of it")),
        (("--pipeline", "a.yaml", "--strategy", "tome"), ("leave one",)),
        (("--dtype", "int3"), ("bfloat16",)),
        (("--device", "nowhere"), ("--device",)),
        (("--device", "meta"), ("--device",)),
        (("--max-new-tokens", "0"), ("at least 1",)),
        (("--max-new-tokens", "many"), ("--max-new-tokens",)),
    ],
)
def test_bad_input_is_one_line(fails, bundled, args, words):
    line = fails("run", "--model", "demo", *ASK, *args)
    for word in words:
        assert word in line


def test_more_bad_input(fails, bundled, picture, tmp_path):
    assert "--prompt" in fails("run", "--model", "demo")
    assert "--model" in fails("run", *ASK)
    assert "no such directory" in fails("run", "--model", "./nowhere", *ASK)
    assert "a file is no checkpoint" in fails("run", "--model", picture, *ASK)
    text = tmp_path / "picture.png"
    text.write_text(json.dumps({}))
    assert "not a picture" in fails("run", "--model", "demo", "--image", text, *ASK)
    placeholder = ("--prompt", "<image> <image> what ?")
    assert "--prompt" in fails("run", "--model", "demo", "--image", picture, *placeholder)
