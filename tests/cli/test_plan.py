"""`lightkv plan`: the published figures, the sources of sizes, and bad input."""

from __future__ import annotations

import json

import pytest
from transformers import LlamaConfig, LlavaNextConfig

import lightkv
from lightkv.checkpoints.published import DESCRIPTIONS, TEXT_TOKENS
from lightkv.core.cost.counting import ViewSize, count_savings, prompt_layout
from lightkv.demo.asking import answer
from lightkv.demo.scenes import held_out_scenes
from training.architecture import make_model, make_processor

PUBLISHED = ("--layers", "15,23,31", "--ratios", "0.5")


def tera(cost: dict) -> float:
    return cost["flops"] / 1e12


def test_published_figures_of_llava_13b(ok_json):
    found = ok_json("plan", "llava-v1.5-13b", *PUBLISHED, "--windows", "4,2,1", "--json")
    assert found["vision_tokens"] == 576
    assert found["text_tokens"] == TEXT_TOKENS
    kept = found["compressed"]["vision_tokens"]
    assert kept == [576] * 15 + [288] * 8 + [144] * 8 + [72] * 9
    assert found["retention"] == pytest.approx(0.553, abs=5e-4)
    assert tera(found["vanilla"]) == pytest.approx(19.4, rel=0.03)
    assert tera(found["compressed"]) == pytest.approx(12.6, rel=0.03)


def test_published_figures_of_llava_next_13b(ok_json):
    found = ok_json("plan", "llava-next-13b", *PUBLISHED, "--windows", "6,4,2", "--json")
    assert found["vision_tokens"] == 2144
    assert found["separators"] == 32
    assert tera(found["vanilla"]) == pytest.approx(65.0, rel=0.05)
    assert tera(found["compressed"]) == pytest.approx(37.3, rel=0.05)


@pytest.mark.parametrize(
    ("model", "layers", "vision", "kv_per_token"),
    [
        ("llava-v1.5-7b", 32, 576, 16384),
        ("llava-v1.5-13b", 40, 576, 20480),
        ("llava-next-7b", 32, 24 * 24 + 32 * 49, 16384),
        ("llava-next-13b", 40, 2144, 20480),
        ("internvl2-8b", 32, 7 * 256, 4096),
        ("eve-7b", 32, 1 + 24 * 25, 16384),
        ("eve-7b-hd", 32, 1 + 48 * 49, 16384),
        ("qwen2.5-vl-7b", 28, 1280, 2048),
    ],
)
def test_sizes_of_all_models_of_the_paper(ok_json, model, layers, vision, kv_per_token):
    found = ok_json("plan", model, "--json")
    assert found["vision_tokens"] == vision
    assert len(found["vanilla"]["vision_tokens"]) == layers
    assert found["vanilla"]["vision_kv_bytes"] == vision * layers * kv_per_token


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("llava-v1.5-7b", 6.74),
        ("llava-v1.5-13b", 13.02),
        ("internvl2-8b", 7.74),
        ("eve-7b", 6.74),
        ("qwen2.5-vl-7b", 7.62),
    ],
)
def test_sizes_give_the_parameters_that_the_decoders_are_known_by(model, billions):
    """Two embedding matrices and the layers; norms and biases are a few hundred thousand."""
    shape = DESCRIPTIONS[model].shape
    layers = shape.num_layers * shape.layer_parameters
    assert layers + 2 * shape.vocab_size * shape.hidden_size == pytest.approx(
        billions * 1e9, rel=2e-3
    )


def test_published_operating_points(ok_json, ok, fails):
    named = ok_json("plan", "llava-v1.5-13b", "--published", "--json")
    listed = ok_json("plan", "llava-v1.5-13b", *PUBLISHED, "--windows", "4,2,1", "--json")
    assert named == listed
    found = ok_json("plan", "qwen2.5-vl-7b", "--published", "--json")
    assert [(s["after_layer"], s["windows"]) for s in found["schedule"]] == [
        (12, 6),
        (17, 4),
        (22, 2),
    ]
    assert "the paper's Λ for 40 layers" in ok("plan", "llava-next-13b", "--published")
    line = fails("plan", "eve-7b", "--published")
    assert "no schedule was published" in line
    assert "llava-v1.5-13b" in line
    for option, value in (("--retention", 0.5), ("--layers", "3"), ("--windows", "2")):
        assert option in fails("plan", "llava-v1.5-7b", "--published", option, value)


def test_default_schedule_meets_the_retention(ok_json):
    for model in DESCRIPTIONS:
        found = ok_json("plan", model, "--retention", 0.4, "--json")
        assert found["planned_retention"] == pytest.approx(0.4, abs=0.005)
        # Tokens without a patch stay: 4 % of EVE's.
        separators = found["separators"] / found["vision_tokens"]
        assert found["retention"] == pytest.approx(0.4 + 0.6 * separators, abs=0.02)


def test_single_values_of_the_pipeline(ok_json, fails):
    args = ("plan", "llava-v1.5-7b", "--json")
    found = ok_json(*args, "--set", "schedule.retention=0.4", "--set", "schedule.windows=[6, 3]")
    assert found["retention"] == ok_json(*args, "--retention", 0.4)["retention"]
    assert [stage["windows"] for stage in found["schedule"]][:2] == [6, 3]
    listed = ok_json(*args, "--layers", "12,18", "--set", "matcher=random-bipartite")
    assert [stage["after_layer"] for stage in listed["schedule"]] == [12, 18]
    for given in (("--retention", 0.5), ("--layers", "12"), ("--published",)):
        found = fails(*args, *given, "--set", "schedule={retention: 0.4}")
        assert "--set says it already" in found
    ok_json(*args, "--retention", 0.5, "--set", "schedule.ratio=0.4")
    assert "'ratio'" in fails(*args, "--set", "schedule.ratoi=0.4")
    swept = (*args, "--sweep", "--range", "0.5:0.6:0.1", "--strategy", "tome,fastv")
    assert len(ok_json(*swept, "--set", "name=x")["points"]) == 4
    assert "--set says it already" in fails(*swept, "--set", "schedule.retention=0.4")


def test_preset_windows_fill_in(ok_json):
    found = ok_json("plan", "llava-v1.5-7b", "--layers", "8,12,16,20", "--json")
    assert [stage["windows"] for stage in found["schedule"]] == [4, 2, 1, 1]


def test_tables_name_their_assumptions(ok):
    text = " ".join(ok("plan", "llava-v1.5-13b").split())
    assert "retention 0.55" in text
    assert f"text tokens {TEXT_TOKENS}, generated tokens 100" in text
    assert "2 bytes per cached value" in text
    assert "24 x 24" in text


def test_kv_bytes_follow_the_dtype(ok_json):
    two = ok_json("plan", "llava-v1.5-7b", "--json")
    four = ok_json("plan", "llava-v1.5-7b", "--dtype-bytes", 4, "--json")
    assert two["vanilla"]["vision_kv_bytes"] == 32 * 576 * 2 * 4096 * 2
    for side in ("vanilla", "compressed"):
        assert four[side]["kv_bytes"] == 2 * two[side]["kv_bytes"]


def test_views_on_the_command_line(ok_json):
    found = ok_json("plan", "llava-v1.5-7b", "--grid", "8x9n", "--grid", "2x8x8", "--json")
    assert found["vision_tokens"] == 8 * 10 + 2 * 8 * 8
    assert found["views"] == ["8 x 9 + newlines", "2 x 8 x 8"]
    found = ok_json("plan", "llava-v1.5-7b", "--vision-tokens", 1000, "--json")
    assert found["vision_tokens"] == 1000
    assert found["views"] == ["32 x 32 (first 1000 cells)"]


def test_release_counts_with_the_quirks_of_the_release(ok_json):
    found = ok_json(
        "plan", "llava-v1.5-13b", "--strategy", "lightkv-release", "--layers", "13,19,25", "--json"
    )
    assert sorted(set(found["compressed"]["vision_tokens"])) == [73, 145, 288, 576]


def test_sizes_from_checkpoint_config_and_bundled(ok_json, bundled):
    folder = ok_json("plan", bundled, "--json")
    file = ok_json("plan", bundled / "config.json", "--json")
    demo = ok_json("plan", "demo", "--json")
    assert folder["vision_tokens"] == 144
    assert folder["compressed"] == file["compressed"] == demo["compressed"]


def test_a_family_without_adapter_needs_a_grid(ok_json, fails, tmp_path):
    LlavaNextConfig(text_config=LlamaConfig(num_hidden_layers=8)).save_pretrained(tmp_path)
    assert "--grid" in fails("plan", tmp_path)
    found = ok_json("plan", tmp_path, "--grid", "24x24", "--json")
    assert len(found["compressed"]["vision_tokens"]) == 8


def test_plan_agrees_with_a_real_run():
    """The same tokens, bytes and FLOPs as the report of a session."""
    model, processor = make_model().eval(), make_processor()
    (scene, questions), *_ = held_out_scenes(1)
    with lightkv.compress(model, "lightkv", retention=0.5) as run:
        answer(model, processor, [scene], questions[:1])
    sample = run.last.samples[0]
    layout = prompt_layout([ViewSize((1, 12, 12))], sample.text_tokens)
    shape = run.adapter.shape(model.config)
    found = count_savings(run.pipeline, shape, layout, new_tokens=1)
    assert found.compressed.vision_tokens == sample.vision_tokens
    assert found.compressed.prefill_flops == sample.flops
    assert found.compressed.compression_flops == sample.compression_flops
    assert found.vanilla.prefill_flops == sample.flops_vanilla
    assert 2 * found.compressed.vision_kv_bytes == sample.vision_kv_bytes  # float32


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("llava-v1.5-13",), ("Did you mean 'llava-v1.5-13b'", "llava-next-7b")),
        (("llava-v1.5-7b", "--retention", "1.5"), ("retention = 1.5", "at most 1")),
        (("llava-v1.5-7b", "--layers", "a,b"), ("--layers", "15,23,31")),
        (("llava-v1.5-7b", "--layers", "15,9"), ("strictly increasing",)),
        (("llava-v1.5-7b", "--layers", "15,40"), ("32 layers", "0 … 31")),
        (("llava-v1.5-7b", "--layers", "8,9", "--windows", "2,4"), ("windows grow",)),
        (("llava-v1.5-7b", "--layers", "8,9", "--windows", "4,2,1"), ("3 entries for 2",)),
        (("llava-v1.5-7b", "--layers", "8", "--ratios", "0.7"), ("at most 0.5",)),
        (("llava-v1.5-7b", "--layers", "8", "--retention", "0.5"), ("--layers",)),
        (("llava-v1.5-7b", "--windows", "4"), ("--layers",)),
        (("llava-v1.5-7b", "--grid", "24"), ("--grid", "24x24")),
        (("llava-v1.5-7b", "--grid", "0x4"), ("--grid", "24x24")),
        (("llava-v1.5-7b", "--grid", "4x4", "--vision-tokens", "16"), ("leave one",)),
        (("llava-v1.5-7b", "--vision-tokens", "0"), ("at least 1",)),
        (("llava-v1.5-7b", "--text-tokens", "-1"), ("not negative",)),
        (("llava-v1.5-7b", "--new-tokens", "0"), ("new_tokens",)),
        (("llava-v1.5-7b", "--dtype-bytes", "0"), ("--dtype-bytes",)),
        (("llava-v1.5-7b", "--strategy", "lightvk"), ("Did you mean 'lightkv'",)),
        ((), ("model",)),
        (("llava-v1.5-7b", "--layer", "3"), ("--layer",)),
    ],
)
def test_bad_input_is_one_line(fails, args, words):
    line = fails("plan", *args)
    for word in words:
        assert word.lower() in line.lower()


def test_bad_configs(fails, tmp_path):
    assert "config.json" in fails("plan", tmp_path)
    (tmp_path / "broken.json").write_text('{"a":')
    assert "JSON" in fails("plan", tmp_path / "broken.json")
    (tmp_path / "strange.json").write_text(json.dumps({"model_type": "nosuch"}))
    assert "nosuch" in fails("plan", tmp_path / "strange.json")


def test_a_name_in_other_letters_is_the_nearest(fails):
    assert "Did you mean 'llava-next-13b'?" in fails("plan", "LLaVA-NeXT-13B")
