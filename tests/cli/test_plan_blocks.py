"""`lightkv plan --engine vllm`: groups, blocks and requests, with the schedule that the engine runs."""

from __future__ import annotations

import pytest

from lightkv.integrations.vllm.schedules import serving_pipeline

MODEL = "llava-v1.5-13b"


def test_groups_and_blocks_of_the_published_point(ok_json):
    """Listed stages stay: 15, 8, 8 and 9 layers are 6 groups of 8."""
    found = ok_json("plan", MODEL, "--published", "--engine", "vllm", "--kv-gib", 8, "--json")
    assert [stage["after_layer"] for stage in found["schedule"]] == [15, 23, 31]
    engine = found["engine"]
    assert (engine["name"], engine["block_size"], engine["kv_gib"]) == ("vllm", 16, 8)
    blocks = engine["compressed"]
    assert (blocks["group_size"], blocks["padding_layers"]) == (8, 8)
    assert [group["segment"] for group in blocks["groups"]] == [0, 0, 1, 2, 3, 3]
    assert [group["prompt_tokens"] for group in blocks["groups"]] == [651] * 2 + [
        363,
        219,
        147,
        147,
    ]
    # 75 + 576 tokens and 99 more, then what is left of them.
    assert [group["blocks"] for group in blocks["groups"]] == [47, 47, 29, 20, 16, 16]
    assert blocks["page_bytes"] == 16 * 8 * 2 * 5120 * 2
    assert blocks["requests"] == (8 * 2**30 // blocks["page_bytes"] - 1) // 175
    (whole,) = engine["vanilla"]["groups"]
    assert whole["layers"] == list(range(40))
    assert (whole["prompt_blocks"], whole["blocks"]) == (41, 47)
    assert engine["ratio"] == pytest.approx(175 * 8 / (47 * 40))


def test_the_schedule_is_the_one_that_the_engine_runs(ok_json):
    plain = ok_json("plan", MODEL, "--retention", 0.469, "--json")
    assert "engine" not in plain
    common = ("plan", MODEL, "--retention", 0.469, "--engine", "vllm", "--json")
    found = ok_json(*common, "--block-size", 32)
    pipeline = serving_pipeline("lightkv", 40, block_size=32, retention=0.469)
    assert found["schedule"] == pipeline.schedule.to_list() != plain["schedule"]
    assert found["engine"]["compressed"]["padding_layers"] == 0
    assert found["planned_retention"] == pytest.approx(0.469, abs=0.005)
    assert "kv_gib" not in found["engine"]


def test_tables_of_the_engine(ok):
    text = " ".join(ok("plan", MODEL, "--engine", "vllm", "--kv-gib", 8).split())
    assert "padding layers" in text
    assert "requests in 8 GiB" in text
    assert "blocks of 16 tokens" in text
    assert "requests in" not in ok("plan", MODEL, "--engine", "vllm")
    small = " ".join(ok("plan", MODEL, "--engine", "vllm", "--kv-gib", 0.01).split())
    assert "requests in 0.01 GiB 0 0" in small


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--engine", "sglang"), ("--engine", "use vllm")),
        (("--block-size", "16"), ("--block-size", "--engine vllm")),
        (("--kv-gib", "8"), ("--kv-gib", "--engine vllm")),
        (("--engine", "vllm", "--block-size", "0"), ("--block-size", "at least 1")),
        (("--engine", "vllm", "--kv-gib", "0"), ("--kv-gib",)),
        (("--engine", "vllm", "--kv-gib", "nan"), ("--kv-gib",)),
        (("--engine", "vllm", "--sweep"), ("--engine", "--sweep")),
        (("--engine", "vllm", "--strategy", "tome-cache"), ("--strategy", "between layers")),
        (("--engine", "vllm", "--strategy", "visionzip"), ("--strategy", "encoder")),
    ],
)
def test_bad_input_is_one_line(fails, args, words):
    line = fails("plan", MODEL, *args)
    for word in words:
        assert word in line
