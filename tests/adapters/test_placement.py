"""Models whose weights lie on several devices, on disk or in int8."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import remove_hook_from_module
from tensor_parallel_worker import FAMILIES
from torch import nn

from lightkv.testing.adapters import MIXED
from lightkv.testing.oracles import snapshot

CHOSEN = ("Llava", "Qwen25VL", "Qwen3VL", "InternVL", "Gemma3", "Mistral3", "Idefics3")
CANNOT = {
    ("Idefics3", "cpu_offload"): "item.. cannot be called on meta tensors",
}
"""What the plain model says where transformers itself cannot: its image embedding reads a weight
that is not loaded yet."""


def suite_of(family: str) -> Any:
    module, cls = FAMILIES[family]
    return getattr(import_module(module), cls)()


def layers_of(suite: Any, model: nn.Module) -> str:
    """The name under which the model keeps its decoder layers."""
    layers = suite.decoder(model).layers
    return next(name for name, module in model.named_modules() if module is layers)


def compressed(suite: Any, model: nn.Module, pipeline: str = "lightkv") -> torch.Tensor:
    inputs = suite.make_inputs(model, MIXED)
    with suite.session(model, MIXED, pipeline, trace=True) as session:
        logits = suite.logits(model, inputs)
    assert session.last.retention < 1
    return torch.as_tensor(logits)


def placed(model: nn.Module, layers: str, how: str, folder: Any) -> nn.Module:
    if how == "cpu_offload":
        return cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=True)
    if how == "disk_offload":
        disk_offload(model, str(folder), execution_device=torch.device("cpu"))
        return model
    late = [f"{layers}.{i}" for i in (2, 4)]
    places = dict.fromkeys(late, "disk")
    for name, _ in model.named_modules():
        above = any(place.startswith(f"{name}.") for place in late) or not name
        below = any(name == place or name.startswith(f"{place}.") for place in places)
        if not above and not below:
            places[name] = "cpu"
    return dispatch_model(
        model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True
    )


@pytest.mark.parametrize(
    ("how", "family"),
    [
        *(("dispatch_model", family) for family in CHOSEN),
        *(("cpu_offload", family) for family in ("Llava", "Qwen25VL", "Idefics3")),
        *(("disk_offload", family) for family in ("Llava", "Gemma3")),
    ],
)
def test_offloaded_weights_give_the_same_compressed_logits(
    family: str, how: str, tmp_path: Any
) -> None:
    suite = suite_of(family)
    wanted = compressed(suite, suite.make_model())
    model = suite.make_model()
    model = placed(model, layers_of(suite, model), how, tmp_path)
    held = [p for p in suite.decoder(model).layers[2].parameters() if p.is_meta]
    assert held, "nothing was offloaded"
    inputs = suite.make_inputs(model, MIXED)
    if (family, how) in CANNOT:
        with pytest.raises(RuntimeError, match=CANNOT[family, how]):
            suite.logits(model, inputs)
        return
    suite.logits(model, inputs)
    before = snapshot(model)
    assert torch.equal(compressed(suite, model), wanted)
    assert snapshot(model) == before
    remove_hook_from_module(model, recurse=True)


def test_a_device_map_of_from_pretrained(tmp_path: Any) -> None:
    suite = suite_of("Llava")
    model = suite.make_model()
    wanted = compressed(suite, model)
    model.save_pretrained(tmp_path / "model")
    places = {"model.vision_tower": "cpu", "model.multi_modal_projector": "cpu", "lm_head": "cpu"}
    places |= {"model.language_model.embed_tokens": "cpu", "model.language_model.norm": "cpu"}
    places["model.language_model.rotary_emb"] = "cpu"
    places |= {f"model.language_model.layers.{i}": "cpu" for i in range(3)}
    places |= {f"model.language_model.layers.{i}": "disk" for i in range(3, 6)}
    loaded = type(model).from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "rest"
    )
    assert any(p.is_meta for p in loaded.parameters())
    assert torch.equal(compressed(suite, loaded), wanted)


# -- a second device -------------------------------------------------------------------------------


def move(value: Any, device: str) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(move(item, device) for item in value)
    return value


def place(layer: nn.Module, device: str) -> None:
    """What accelerate does: weights on the device, arguments moved inside `forward`."""
    layer.to(device)
    forward = layer.forward

    def moving(*args: Any, **kwargs: Any) -> Any:
        there = {key: move(value, device) for key, value in kwargs.items()}
        return forward(*move(args, device), **there)

    layer.forward = moving  # type: ignore[method-assign]


# Where layers slide the report counts what the last device's index holds, on the host.
@pytest.mark.parametrize(
    ("family", "first"),
    [*((family, i) for family in ("Llava", "Qwen25VL") for i in range(1, 6)), ("Gemma3", 4)],
)
@pytest.mark.parametrize(
    ("pipeline", "policy"),
    [
        ("lightkv", "keep"),
        ("fastv", "renumber"),
        ("lightkv", "barycentric"),
        ("random", "renumber-contiguous"),
    ],
)
def test_later_layers_on_another_device(
    family: str, first: int, pipeline: str, policy: str
) -> None:
    """The meta device serves as the second one: mixing it with the first fails, reading it too."""
    suite = suite_of(family)
    model = suite.make_model()
    decoder = suite.decoder(model)
    # The head runs where the last layer is.
    for layer in decoder.layers[first:]:
        place(layer, "meta")
    decoder.norm.to("meta")
    model.lm_head.to("meta")
    inputs = suite.make_inputs(model, MIXED)
    seen: dict[int, torch.device] = {}
    for number, layer in enumerate(decoder.layers):
        layer.register_forward_hook(
            lambda _, __, out, number=number: seen.update(
                {number: (out[0] if isinstance(out, tuple) else out).device}
            )
        )
    with (
        suite.session(model, MIXED, pipeline, positions=policy) as session,
        torch.no_grad(),
    ):
        out = model(**inputs, use_cache=True)
        steps = {"input_ids": inputs["input_ids"][:, -1:], "past_key_values": out.past_key_values}
        mask = torch.cat([inputs["attention_mask"], inputs["attention_mask"][:, -1:]], dim=1)
        if family != "Qwen25VL":  # which needs positions, made by generate, for a step
            model(**steps, attention_mask=mask)
    assert [seen[i].type == "meta" for i in range(len(seen))] == [
        i >= first for i in range(len(seen))
    ]
    assert session.last.retention < 1
    shapes = [layer.keys.shape[2] for layer in out.past_key_values.layers]
    assert len(set(shapes)) > 1 or suite.windows


# -- int8 weights ----------------------------------------------------------------------------------


class Int8Linear(nn.Module):
    """Int8 weights with a scale for each output, as bitsandbytes keeps them; float activations."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        weight = (linear.weight.detach() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", scale)
        self.bias = linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        weight = self.weight.to(hidden.dtype) * self.scale.to(hidden.dtype)
        return nn.functional.linear(hidden, weight, self.bias)


def stand_in(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and name != "lm_head":
                setattr(module, name, Int8Linear(child))


def quanto(model: nn.Module) -> None:
    library = pytest.importorskip("optimum.quanto")
    library.quantize(model, weights=library.qint8, exclude="*lm_head*")
    library.freeze(model)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all that the model holds."""
    held = model.state_dict().items()
    return {name: v.detach().clone() for name, v in held if isinstance(v, torch.Tensor)}


@pytest.mark.parametrize("family", CHOSEN)
@pytest.mark.parametrize("quantise", [quanto, stand_in])
def test_quantised_weights_are_read_and_never_touched(family: str, quantise: Any) -> None:
    suite = suite_of(family)
    plain, make = suite.make_model(), suite.make_model

    def quantised(*args: Any, **kwargs: Any) -> nn.Module:
        model = make(*args, **kwargs)
        quantise(model)
        return model.eval()

    model = quantised()
    before = weights(model)
    found, wanted = suite.drop_and_mask(model, MIXED, "fastv", eager=False)
    torch.testing.assert_close(found, wanted, atol=suite.exact, rtol=0)
    merged = compressed(suite, model)
    assert (merged - compressed(suite, plain)).abs().max() > 1e-5, "nothing was quantised"
    after = weights(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
