"""`lightkv plan --gpu` and `--image`: what a GPU holds, and the views of a picture of so many pixels."""

from __future__ import annotations

import random
import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AttentionMaskInterface, LlavaNextConfig, Qwen3_5Config
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from lightkv.checkpoints.describe import _described
from lightkv.checkpoints.picture_sizes import TILES, merged_rows, tile_arrangement
from lightkv.checkpoints.published import DESCRIPTIONS, Description
from lightkv.cli.plan.gpu import read_size
from lightkv.cli.plan.trace import KV, compare, meta_model
from lightkv.core.cost.counting import ViewSize, count_savings, prompt_layout
from lightkv.core.cost.memory import Fit, activation_bytes
from lightkv.core.errors import ConfigError
from lightkv.core.pipeline.pipeline import Pipeline

GIB = 2**30


DEPTH = 8
"""Layers of decoders that run; each counts alike, or each fourth of Qwen3.5."""


@pytest.fixture(scope="module")
def qwen3_5() -> Description:
    """The widths of Qwen3.5-9B, those of transformers' own defaults but for its tower's output."""
    text = {"model_type": "qwen3_5_text", "num_hidden_layers": DEPTH}
    config = Qwen3_5Config(text_config=text, vision_config={"out_hidden_size": 4096})
    return replace(_described("qwen3.5", config, None), views=(ViewSize((1, 30, 40)),))


# -- weights and caches, against tensors on the meta device -----------------------------------------


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_weights_are_those_of_the_class(name):
    described = DESCRIPTIONS[name]
    _, model = meta_model(described)
    assert described.parameters == sum(each.numel() for each in model.parameters())
    assert bool(described.counted) == name.startswith("eve")


def test_weights_that_are_shared_count_once(tmp_path, ok_json):
    text = {"model_type": "llama", "num_hidden_layers": 2, "vocab_size": 64000}
    for tied in (False, True):
        config = LlavaNextConfig(text_config={**text, "tie_word_embeddings": tied})
        config.tie_word_embeddings = tied
        config.save_pretrained(tmp_path / str(tied))
    args = ("--grid", "8x8", "--layers", "1", "--gpu", "24GiB", "--json")
    sizes = [ok_json("plan", tmp_path / str(tied), *args)["gpu"] for tied in (False, True)]
    apart, together = (size["parameters"] for size in sizes)
    assert apart - together == 64000 * config.text_config.hidden_size


def test_caches_are_those_of_a_run(qwen3_5):
    """Bytes of the cache tensors of the real class, vanilla and compressed, states included.

    Of the models known by name `test_plan_trace.py` asks the same.
    """
    described, layout = qwen3_5, prompt_layout(qwen3_5.views, 75)
    stage = {"after_layer": 4, "ratio": 0.5, "windows": 2}
    pipeline = Pipeline.build("lightkv", DEPTH, places=described.places, schedule=[stage])
    savings = count_savings(pipeline, described.shape, layout, new_tokens=1)
    found = compare(described, pipeline, layout)
    for side in ("vanilla", "compressed"):
        (held,) = [measured for row, _, measured in getattr(found, side) if row == KV]
        assert getattr(savings, side).kv_bytes == held
    # Three of four layers keep a state, however long the prompt is.
    assert savings.compressed.kv_bytes / savings.vanilla.kv_bytes > savings.retention + 0.05


class Living(TorchDispatchMode):
    """The most bytes that tensors made meanwhile take at once."""

    def __init__(self, model):
        super().__init__()
        parts = [*model.parameters(), *model.buffers()]
        self.weights = {each.untyped_storage()._cdata for each in parts}
        self.references, self.now, self.most = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, torch.Tensor):
                self.count(made, made.untyped_storage())
        return out

    def count(self, tensor, storage):
        if storage._cdata in self.weights:
            return
        held = self.references.setdefault(storage._cdata, [0, storage.nbytes()])
        self.now += 0 if held[0] else held[1]
        held[0] += 1
        weakref.finalize(tensor, self.forget, storage._cdata)
        self.most = max(self.most, self.now)

    def forget(self, key):
        held = self.references[key]
        held[0] -= 1
        if not held[0]:
            self.now -= self.references.pop(key)[1]


def fused(module, query, key, value, mask, **_):
    """Attention that keeps no matrix of scores, as fused kernels do; the fallback of CPUs keeps one."""
    batch, heads, queries, _ = query.shape
    return query.new_empty(batch, queries, heads, value.shape[-1]), None


@pytest.mark.parametrize("name", ["llava-next-13b", "qwen2.5-vl-7b"])
def test_activations_are_near_the_peak_of_a_prefill(name):
    """At the published widths; two layers, as every layer frees what the one before took."""
    described = DESCRIPTIONS[name]
    shape = replace(described.shape, num_layers=2)
    _, model = meta_model(replace(described, shape=shape))
    model = model.eval().half()
    AttentionInterface.register("unsquared", fused)
    AttentionMaskInterface.register("unsquared", lambda *_, **__: None)
    model.set_attn_implementation("unsquared")
    tokens, on_meta = 2219, {"device": "meta", "dtype": torch.half}
    with torch.no_grad(), Living(model) as living:
        model(
            inputs_embeds=torch.empty(1, tokens, shape.hidden_size, **on_meta),
            position_ids=torch.empty(1, tokens, device="meta", dtype=torch.long),
            use_cache=True,
            logits_to_keep=1,
        )
    cache = shape.kv_bytes([tokens] * 2)
    assert living.most - cache == pytest.approx(activation_bytes(shape, tokens), rel=0.02)


# -- what a GPU holds -------------------------------------------------------------------------------


def test_an_operator_is_told_what_fits(ok, ok_json):
    args = ("plan", "qwen2.5-vl-7b", "--gpu", "24GiB", "--image", "1280x960")
    data = ok_json(*args, "--json")
    found, caches = data["gpu"], {}
    assert data["views"] == ["34 x 46"]
    for side in ("vanilla", "compressed"):
        caches[side] = data[side]["kv_bytes"]
        left = int(24 * GIB * 0.9) - 2 * 8_292_166_656 - found["activations"]
        assert found["left"] == left
        assert found["requests"][side] == left // caches[side]
    assert found["requests"]["compressed"] > 1.5 * found["requests"]["vanilla"]
    words = " ".join(ok(*args).split())
    assert "requests at once 63 107 1.698" in words
    assert "KV of a request, prompt + 100 tokens 95.0 MiB 56.6 MiB" in words


def test_the_engine_gets_what_the_gpu_has_left(ok_json):
    args = ("plan", "llava-v1.5-7b", "--gpu", "24GiB", "--engine", "vllm", "--json")
    data = ok_json(*args)
    assert data["engine"]["kv_gib"] * GIB == pytest.approx(data["gpu"]["left"])
    assert data["engine"]["compressed"]["requests"] <= data["gpu"]["requests"]["compressed"]


def test_half_a_byte_and_a_share(ok_json):
    args = ("plan", "llava-next-13b", "--gpu", "16GB", "--weight-bytes", 0.5, "--gpu-share", 1)
    found = ok_json(*args, "--json")["gpu"]
    assert found["usable"] == 16 * 10**9
    assert found["weights"] == 13_351_499_776 / 2


def test_weights_that_fit_beside_no_request(ok):
    words = " ".join(ok("plan", "llava-v1.5-7b", "--gpu", "14.7GiB").split())
    assert "requests at once 0 0" in words
    assert "Not even one such request fits" in words


def test_a_model_larger_than_the_gpu(fails):
    line = fails("plan", "llava-next-13b", "--gpu", "24GiB")
    assert "24.9 GiB" in line
    assert "21.6 GiB: 3.3 GiB too little" in line
    with pytest.raises(ConfigError, match=r"1\.0 GiB too little"):
        Fit(GIB, 1.0, GIB, 2 * GIB, 0, 1, 1).check()


@pytest.mark.parametrize(
    ("text", "size"), [("24GiB", 24 * GIB), (" 80 GB ", 80 * 10**9), ("1.5tib", 1.5 * 2**40)]
)
def test_sizes(text, size):
    assert read_size(text) == size


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--gpu", "0"), ("--gpu = '0'", "24GiB")),
        (("--gpu", "24"), ("a number with a unit",)),
        (("--gpu", "0GiB"), ("some memory",)),
        (("--gpu", "-1GiB"), ("a number with a unit",)),
        (("--gpu", "24GiB", "--gpu-share", 0), ("--gpu-share", "at most 1")),
        (("--gpu", "24GiB", "--weight-bytes", "nan"), ("--weight-bytes",)),
        (("--gpu", "24GiB", "--kv-gib", 3, "--engine", "vllm"), ("--kv-gib",)),
        (("--gpu", "24GiB", "--sweep"), ("--sweep",)),
        (("--weight-bytes", 1), ("add --gpu SIZE",)),
        (("--image", "12"), ("WIDTHxHEIGHT", "1280x720")),
        (("--image", "0x5"), ("sides of a picture",)),
        (("--image", "5x5", "--grid", "2x2"), ("leave one",)),
        (("--adapter", "generic"), ("--adapter", "known by name")),
    ],
)
def test_bad_input_is_one_line(fails, args, words):
    line = fails("plan", "llava-v1.5-7b", *args)
    for word in words:
        assert word in line


# -- pictures ---------------------------------------------------------------------------------------


def test_views_are_those_of_the_processors():
    draw = random.Random(0)
    for _ in range(200):
        size = draw.randint(1, 5000), draw.randint(1, 5000)
        least, most = draw.choice([(56 * 56, 16384 * 28 * 28), (4 * 28 * 28, 300 * 28 * 28)])
        if max(size) <= 200 * min(size):
            scaled = smart_resize(*size, 28, least, most)
            assert tuple(28 * side for side in merged_rows(size, 28, least, most)) == scaled
        columns, rows = get_optimal_tiled_canvas(size, (448, 448), 1, TILES)
        assert tile_arrangement(size, 448, 1, TILES) == (rows, columns)


@pytest.mark.parametrize(
    ("model", "pixels", "views"),
    [
        ("llava-v1.5-7b", "3000x20", ["24 x 24"]),
        ("llava-next-7b", "1080x720", ["24 x 24", "32 x 48 + newlines"]),
        ("internvl2-8b", "1500x1000", ["32 x 48", "16 x 16"]),
        ("internvl2-8b", "1x1", ["16 x 16"]),
        ("qwen2.5-vl-7b", "1120x896", ["32 x 40"]),
        ("qwen2.5-vl-7b", "1x1", ["2 x 2"]),
        ("qwen2.5-vl-7b", "20000x20000", ["127 x 127"]),
    ],
)
def test_pixels_of_models_known_by_name(ok_json, model, pixels, views):
    assert ok_json("plan", model, "--image", pixels, "--json")["views"] == views


def test_a_checkpoint_says_how_pictures_are_scaled(ok_json, fails, qwen3_5, tmp_path):
    qwen3_5.config.save_pretrained(tmp_path)
    args = ("plan", tmp_path, "--layers", "4", "--image", "1000x1000", "--image", "64x64", "--json")
    assert ok_json(*args)["views"] == ["31 x 31", "8 x 8"]
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"longest_edge": 102400}}')
    assert ok_json(*args)["views"] == ["10 x 10", "8 x 8"]
    assert "200 times" in fails("plan", tmp_path, "--image", "5000x10")
    assert "is not known here" in fails("plan", "eve-7b", "--image", "640x480")


# -- what a session would refuse --------------------------------------------------------------------


def test_what_the_adapter_refuses(fails, qwen3_5, tmp_path):
    assert "no class token" in fails("plan", "qwen2.5-vl-7b", "--strategy", "visionzip")
    words = fails("plan", "llava-v1.5-7b", "--retention", "image=0.5,audio=0.7")
    assert "knows no tokens of audio" in words
    qwen3_5.config.save_pretrained(tmp_path / "whole")
    args = ("--image", "640x480", "--strategy", "visionzip")
    assert "no class token" in fails("plan", tmp_path / "whole", *args)
    qwen3_5.config.text_config.save_pretrained(tmp_path / "text")
    words = fails("plan", tmp_path / "text", "--grid", "8x8")
    assert "one of text alone" in words
    assert "--adapter generic" in words


def test_hub_ids(ok_json, fails, qwen3_5, monkeypatch):
    """Their configs alone are read; without network the error says so."""
    from transformers import AutoConfig

    asked = []

    def found(path, **options):
        asked.append((path, options))
        return qwen3_5.config

    monkeypatch.setattr(AutoConfig, "from_pretrained", found)
    data = ok_json("plan", "someone/model", "--layers", "4", "--image", "640x480", "--json")
    assert data["vision_tokens"] == 15 * 20
    assert asked == [("someone/model", {"local_files_only": False, "trust_remote_code": False})]

    def unreachable(path, **_):
        raise OSError("We couldn't connect to the hub. Check your connection.")

    monkeypatch.setattr(AutoConfig, "from_pretrained", unreachable)
    words = fails("plan", "someone/model")
    assert "We couldn't connect to the hub" in words
    assert "this machine can reach" in words
