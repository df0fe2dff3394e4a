"""Bad input, one test for each kind: a typed error with field, value and remedy, and a clean model."""

import contextlib
import importlib.metadata

import pytest
import torch
from tiny import tiny_llava

import lightkv
from lightkv import LightKVError, Schedule, Stage, VisionLayout
from lightkv.core.errors import (
    ConfigError,
    LayoutError,
    ModelError,
    NumericError,
    PluginError,
    SessionError,
    UnknownNameError,
)
from lightkv.core.plugins import Registry, registry
from lightkv.functional import compress_stage
from lightkv.testing.oracles import snapshot

IMAGE = 5


@contextlib.contextmanager
def explained(kind, *words, missing=False):
    """Expects a `LightKVError` of a kind that says what, where, which value, and what would work.

    `missing`: nothing was given, so there is no value to name.
    """
    with pytest.raises(kind) as caught:
        yield
    error = caught.value
    assert isinstance(error, LightKVError)
    assert error.field, error
    assert missing or error.value is not None, error
    assert error.remedy, error
    message = str(error)
    assert error.field in message
    assert missing or repr(error.value) in message
    assert error.remedy in message
    for word in words:
        assert word in message, message


@pytest.fixture(scope="module")
def model():
    model = tiny_llava()
    _ = registry().adapters
    run(model)
    return model


def inputs():
    ids = torch.tensor([[7, 8, *[IMAGE] * 36, 9, 10, 11]])
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "pixel_values": pixels}


def run(model, **changes):
    with torch.no_grad():
        return model(**{**inputs(), **changes}).logits


@pytest.fixture
def clean(model):
    """Fails the test if anything stays attached to the model or changes what it computes."""
    before, plain = snapshot(model), run(model)
    yield model
    assert snapshot(model) == before
    assert torch.equal(run(model), plain)
    with lightkv.compress(model, "fastv"):
        pass


def stages(*entries):
    return [
        {"after_layer": layer, "ratio": ratio, "windows": windows}
        for layer, ratio, windows in entries
    ]


def enter(model, pipeline="lightkv", **options):
    with lightkv.compress(model, pipeline, **options):
        pytest.fail("the session began")


# -- shares -----------------------------------------------------------------------------------


@pytest.mark.parametrize("retention", [0.0, -0.1, 1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("pipeline", ["lightkv", "fastv"])
def test_retention_outside_its_range(clean, retention, pipeline):
    with explained(ConfigError, "retention", "at most 1"):
        enter(clean, pipeline, retention=retention)


def test_retention_out_of_reach_names_the_range(clean):
    with explained(ConfigError, "reach retentions from", "to 1"):
        Schedule.for_retention(6, 0.1, [4, 2, 1])
    with explained(ConfigError, "above 0.333", "earlier layer"):
        enter(clean, "fastv", retention=0.3)
    with explained(ConfigError, "retention"):
        enter(clean, retention=0.01)


@pytest.mark.parametrize("retention", ["half", "0.5", True, [0.5], {"share": 0.5}])
def test_retention_that_is_no_number(clean, retention):
    with explained(ConfigError, "retention"):
        enter(clean, retention=retention)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan"), "half"])
def test_ratio_outside_its_range(clean, ratio):
    with explained(ConfigError, "ratio", "schedule"):
        enter(clean, "fastv", schedule=stages((2, ratio, None)))


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_ratio_of_a_single_stage(ratio):
    with explained(ConfigError, "ratio"):
        Stage.preset("random", ratio=ratio)


def test_ratio_above_one_half_for_a_bipartite_matcher(clean):
    """Says what one stage can do at most, and how more stages reach more."""
    with explained(ConfigError, "at most 0.5", "three stages of 0.5 leave an eighth"):
        Stage.preset("lightkv", windows=4, ratio=0.6)
    with explained(ConfigError, "schedule[0].ratio", "at most 0.5", "add stages"):
        enter(clean, "tome", schedule=stages((2, 0.75, None)))


# -- layers and windows -----------------------------------------------------------------------


@pytest.mark.parametrize("layers", [(4, 2), (2, 2)])
def test_layers_that_do_not_increase(clean, layers):
    with explained(ConfigError, "schedule[1].after_layer", "strictly increasing"):
        enter(clean, schedule=stages(*((layer, 0.5, 2) for layer in layers)))


@pytest.mark.parametrize("layer", [6, 60])
def test_layers_beyond_the_model(clean, layer):
    with explained(ConfigError, "schedule[1].after_layer", "6 layers", "0 … 5"):
        enter(clean, schedule=stages((2, 0.5, 2), (layer, 0.5, 1)))


@pytest.mark.parametrize("layer", [-1, 1.5, "two"])
def test_layers_that_are_no_layers(clean, layer):
    with explained(ConfigError, "after_layer"):
        enter(clean, schedule=stages((layer, 0.5, 2)))


def test_windows_that_grow(clean):
    with explained(ConfigError, "schedule[1].windows", "from 2 to 4"):
        enter(clean, schedule=stages((2, 0.5, 2), (4, 0.5, 4)))


@pytest.mark.parametrize("windows", [0, -2, {"space": 0}, {"space": 2, "depth": 1}, "four"])
def test_windows_that_are_no_windows(clean, windows):
    with explained(ConfigError, "windows"):
        enter(clean, schedule=stages((2, 0.5, windows)))


def test_windows_that_exceed_the_grid(clean):
    """Known only when the image is: where that is asked for, the pass is stopped, and the session
    ends cleanly."""
    strict = {"name": "windows", "clamp": False}
    session = lightkv.compress(clean, "lightkv", schedule=stages((2, 0.5, 7)), partitioner=strict)
    with explained(ConfigError, "schedule[0]", "7 windows", "at most 6"), session:
        run(clean)
    layout = VisionLayout.from_spans([[(2, (1, 3, 8))]])
    with explained(ConfigError, "windows", "at most 3"):
        compress_stage(
            torch.randn(1, 30, 8),
            layout,
            Stage.preset("lightkv", windows=4, partitioner=strict),
            attention_logits=torch.randn(1, 1, 30, 6),
        )


def test_windows_that_are_missing(clean):
    with explained(ConfigError, "windows", "how many", missing=True):
        enter(clean, schedule=stages((2, 0.5, None)))


# -- names and plugins ------------------------------------------------------------------------


def test_unknown_names(clean):
    with explained(UnknownNameError, "Did you mean 'lightkv'", "There are:", "tome"):
        enter(clean, "lightkw")
    with explained(UnknownNameError, "Did you mean 'top-k'", "bipartite"):
        enter(clean, "fastv", matcher="topk")
    with explained(UnknownNameError, "There are:", "barycentric"):
        enter(clean, positions="nowhere")
    with explained(ModelError, "Did you mean 'llava'", "generic"):
        enter(clean, adapter="lava")
    with explained(ConfigError, "Did you mean 'matcher'"):
        enter(clean, matchr="top-k")
    with explained(ConfigError, "Did you mean 'check_finite'"):
        enter(clean, check_finit=True)
    with explained(ConfigError, "its parameters are: rounding"):
        enter(clean, "fastv", matcher={"name": "top-k", "size": 3})


def test_a_plugin_that_fails_to_import(monkeypatch):
    point = importlib.metadata.EntryPoint("mine", "no_such_module_of_mine", "lightkv")
    own = [e for e in importlib.metadata.entry_points(group="lightkv") if e.dist]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point, *own])
    fresh = Registry()
    with pytest.warns(UserWarning, match="no_such_module_of_mine"):
        fresh.load_entry_points()
    with explained(PluginError, "'mine'", "ModuleNotFoundError", "the other plugins are loaded"):
        raise fresh.failures[0]
    assert {"lightkv", "fastv", "tome"} <= set(fresh.presets)


def test_plugins_that_clash():
    class Offer:
        @lightkv.hookimpl
        def lightkv_presets(self, register):
            register(registry().preset("tome"))

    fresh = Registry()
    fresh.register(Offer(), name="one", package="first")
    with pytest.warns(UserWarning, match="clashes"):
        fresh.register(Offer(), name="two", package="second")
    with explained(PluginError, "'second'", "'first', which stays", "rename"):
        raise fresh.failures[0]
    assert fresh.presets["tome"].package == "first"


# -- spans ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        ([(30, (1, 4, 5))], ("ends at position 49", "sequence has 41")),
        ([(-3, (1, 4, 5))], ("starts at -3",)),
        ([(0, (1, 4, 5)), (10, (1, 4, 5))], ("claim the same position", "own span")),
        ([(0, (1, 4, 0))], ("three positive numbers",)),
        ([(0, (4, 5))], ("three positive numbers", "(1, 24, 24)")),
        ([(0, 20)], ("a span is (start, (frames, rows, columns))",)),
        ([(0, (1, 2.5, 4))], ("grid",)),
        ([(0, (1, True, 4))], ("three positive numbers",)),
        ([(True, (1, 4, 4))], ("a span is (start, (frames, rows, columns))",)),
        ([(10**30, (1, 4, 4))], ("a span is (start, (frames, rows, columns))",)),
        ([(0, (1, 10**9, 10**9))], ("at most 67,108,864 cells",)),
    ],
)
def test_spans_that_cannot_be(clean, spans, words):
    with explained(LayoutError, *words):
        lightkv.VisionLayout.from_spans([spans], length=41)
    # Without a length they are found out when the sequence is known.
    if words[0].startswith("ends"):
        layout = VisionLayout.from_spans([spans])
        session = lightkv.compress(clean, "fastv", layout=layout)
        with explained(LayoutError, *words), session:
            run(clean)


def test_views_that_do_not_match_their_grid():
    import numpy as np

    from lightkv.core.layout import SampleLayout, View

    for cells, words in (
        (np.arange(5), "cell"),
        (np.array([0, 1, 2, 9]), "cell"),
        (np.array([0, 1, 1, 2]), "cell"),
    ):
        with explained(LayoutError, words):
            view = View((1, 2, 2), np.arange(cells.size), cells)
            VisionLayout(9, (SampleLayout((view,)),))


def test_spans_inside_the_padding():
    with explained(LayoutError, "padding"):
        VisionLayout.from_spans([[(1, (1, 2, 2))]], length=9, pads=[3])
    with explained(LayoutError, "pads"):
        VisionLayout.from_spans([[(1, (1, 2, 2))], []], length=9, pads=[1])


# -- values, padding, models ------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite(clean, bad):
    layout = VisionLayout.from_spans([[(2, (1, 4, 4))]])
    hidden, logits = torch.randn(1, 20, 8), torch.randn(1, 2, 20, 4)
    stage = Stage.preset("lightkv", windows=2)
    for name in ("hidden_states", "attention_logits"):
        tensors = {"hidden_states": hidden.clone(), "attention_logits": logits.clone()}
        tensors[name].view(-1)[9] = bad
        with explained(NumericError, name, "NaN or infinite"):
            compress_stage(layout=layout, stage=stage, **tensors)
    with torch.no_grad():
        weight = clean.get_decoder().layers[0].mlp.down_proj.weight
        kept = weight.clone()
        weight[0, 0] = bad
        session = lightkv.compress(
            clean, "lightkv", schedule=stages((2, 0.5, 2)), check_finite=True
        )
        with explained(NumericError, "hidden_states"), session:
            run(clean)
        weight.copy_(kept)


def test_right_padding(clean):
    mask = torch.ones(1, 41, dtype=torch.long)
    mask[0, -2:] = 0
    with explained(LayoutError, "attention_mask", "padding_side"), lightkv.compress(clean, "fastv"):
        run(clean, attention_mask=mask)


def test_a_model_that_is_none(clean):
    with explained(ConfigError, "model", "from_pretrained"):
        enter("llava-hf/llava-1.5-7b-hf")
    with explained(ModelError, "no adapter serves Linear", "generic", "writing-an-adapter"):
        enter(torch.nn.Linear(2, 2))
    with explained(SessionError, "already compressed"), lightkv.compress(clean, "fastv"):
        enter(clean, "lightkv")


def test_a_pipeline_that_is_none(clean, tmp_path):
    with explained(ConfigError, "pipeline file"):
        enter(clean, tmp_path / "missing.yaml")
    with explained(ConfigError, "a mapping of roles"):
        enter(clean, 3.5)
    with explained(ConfigError, "matchers", "Did you mean 'matcher'?"):
        enter(clean, {"scorer": "uniform", "matchers": "top-k"})
    with explained(ConfigError, "matcher", "its keys are", missing=True):
        enter(clean, {"scorer": "uniform"})


@pytest.mark.parametrize("content", [{}, {"config.json": "{}"}, {"config.json": "not JSON"}])
def test_a_directory_that_is_no_checkpoint(tmp_path, content):
    from lightkv.checkpoints.describe import read_config
    from lightkv.checkpoints.load import load_model

    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with explained(ModelError, "checkpoint", "save_pretrained"):
        load_model(str(tmp_path), "float32", "cpu")
    if "{}" not in content.values():
        with explained(ModelError, str(tmp_path)):
            read_config(tmp_path)
    with explained(ModelError, "no such directory"):
        load_model(f"{tmp_path}/missing", "float32", "cpu")
