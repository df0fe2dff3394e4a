"""A release of transformers that calls something otherwise ends in a typed error, never in silence.

Each entry of the contact file is renamed in turn, as far as lightkv can see, while the model itself goes
on to work: the plain model answers under every rename, so a session that answered too would be wrong.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from tiny import tiny_llava
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

import lightkv
from lightkv.adapters.hf import contact
from lightkv.core.errors import CompatibilityError

SCHEDULE = [{"after_layer": 2, "ratio": 0.5}]
IDS = torch.tensor([[7, *[5] * 36, 8, 9]])
Rename = Callable[[Any, nn.Module, str], None]


def answer(model: Any) -> torch.Tensor:
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    return model.generate(
        input_ids=IDS,
        pixel_values=pixels,
        attention_mask=torch.ones_like(IDS),
        max_new_tokens=3,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )


def hide(monkeypatch: Any, kind: type, name: str) -> None:
    """`kind` has no attribute of that name where lightkv looks for it."""
    own = kind.__getattribute__

    def looked(self: Any, asked: str) -> Any:
        if asked == name:
            frame = sys._getframe(1)
            if frame.f_globals.get("__name__", "").startswith("lightkv."):
                raise AttributeError(name)
        return own(self, asked)

    monkeypatch.setattr(kind, "__getattribute__", looked)


def rename_argument(monkeypatch: Any, kind: type, names: tuple[str, ...]) -> None:
    """The forward of a class takes an argument under another name, and still under the old one."""
    forward = kind.forward  # type: ignore[attr-defined]
    signature = inspect.signature(forward)
    parameters = [
        p.replace(name=f"renamed_{p.name}") if p.name in names else p
        for p in signature.parameters.values()
    ]

    def other(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **{k.removeprefix("renamed_"): v for k, v in kwargs.items()})

    other.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    monkeypatch.setattr(kind, "forward", other)


def layer_argument(monkeypatch: Any, model: Any, name: str) -> None:
    names = next(n for n in contact.names_of(contact.LAYER) if n[0] == name)
    rename_argument(monkeypatch, type(model.get_decoder().layers[0]), names)


def decoder_argument(monkeypatch: Any, model: Any, name: str) -> None:
    rename_argument(monkeypatch, type(model.get_decoder()), (name,))


def outer_argument(monkeypatch: Any, model: Any, name: str) -> None:
    rename_argument(monkeypatch, type(model.model), (name,))


def of_generation(monkeypatch: Any, model: Any, name: str) -> None:
    own = getattr(type(model), name)

    def renamed(self: Any, *args: Any, **kwargs: Any) -> Any:
        return own(self, *args, **kwargs)

    monkeypatch.setattr(type(model), name, renamed)


def of_cache(monkeypatch: Any, model: Any, name: str) -> None:
    hide(monkeypatch, DynamicCache, name)


def of_cache_layer(monkeypatch: Any, model: Any, name: str) -> None:
    hide(monkeypatch, DynamicLayer, name)


def of_config(monkeypatch: Any, model: Any, name: str) -> None:
    hide(monkeypatch, type(model.get_decoder().config), name)


def of_attention(monkeypatch: Any, model: Any, name: str) -> None:
    hide(monkeypatch, type(model.get_decoder().layers[0].self_attn), name)


def of_file(monkeypatch: Any, model: Any, name: str) -> None:
    attention = type(model.get_decoder().layers[0].self_attn)
    known = dict(vars(sys.modules[attention.__module__]))
    known.pop(name)
    elsewhere = types.ModuleType("transformers_elsewhere")
    vars(elsewhere).update(known)
    monkeypatch.setitem(sys.modules, elsewhere.__name__, elsewhere)
    monkeypatch.setattr(attention, "__module__", elsewhere.__name__)


RENAMES: dict[str, Rename] = {
    contact.LAYER: layer_argument,
    contact.DECODER: decoder_argument,
    contact.OUTER: outer_argument,
    contact.GENERATION: of_generation,
    contact.CACHE: of_cache,
    contact.CACHE_LAYER: of_cache_layer,
    contact.CONFIG: of_config,
    contact.ATTENTION: of_attention,
    contact.MODULE: of_file,
}


OF_ALL = [read for read in contact.CONTACTS if read.where != contact.CACHE_STATE]
"""The others are met in decoders with recurrent layers only (test_qwen3_5.py)."""


@pytest.mark.parametrize("read", OF_ALL, ids=lambda c: f"{c.where}-{c.names[0]}")
def test_what_is_renamed_is_refused_by_name(read: contact.Contact, monkeypatch: Any) -> None:
    # The file's eager function is asked for where eager attention runs.
    model: Any = tiny_llava("eager" if read.where == contact.MODULE else "sdpa")
    name = read.names[0]
    plain = answer(model)
    RENAMES[read.where](monkeypatch, model, name)
    if read.where != contact.OUTER:  # generate looks for these arguments itself
        assert torch.equal(answer(model), plain)
    with (
        pytest.raises(CompatibilityError) as error,
        lightkv.compress(model, "fastv", schedule=SCHEDULE),
    ):
        answer(model)
    assert error.value.field in read.names
    assert transformers.__version__ in str(error.value)
    assert contact.TESTED[0] in str(error.value.remedy)
    monkeypatch.undo()
    assert torch.equal(answer(model), plain)


# -- what only a pass shows --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["attention_mask", "position_embeddings", "cache"])
def test_layers_that_are_called_otherwise(name: str) -> None:
    """Their forward takes the argument, but the decoder passes it under another name."""
    model: Any = tiny_llava()

    def renamed(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        names = contact.CACHE_NAMES if name == "cache" else (name,)
        return args, {f"new_{k}" if k in names else k: v for k, v in kwargs.items()}

    for layer in model.get_decoder().layers:
        layer.register_forward_pre_hook(renamed, with_kwargs=True)
    with (
        pytest.raises(CompatibilityError, match=name),
        lightkv.compress(model, "fastv", schedule=SCHEDULE),
    ):
        answer(model)


def broken(where: Any, change: Callable[[Any, Any], Any]) -> None:
    """A hook that changes what `where` is called with, before the session's own hook sees it."""
    where.register_forward_pre_hook(lambda m, a, k: change(a, k), with_kwargs=True)


def test_a_mask_of_another_size() -> None:
    model: Any = tiny_llava()

    def longer(args: Any, kwargs: dict[str, Any]) -> Any:
        length = args[0].shape[1]
        mask = torch.ones(1, 1, length, length + 1, dtype=torch.bool)
        return args, {**kwargs, "attention_mask": mask}

    broken(model.get_decoder().layers[1], longer)
    with (
        pytest.raises(CompatibilityError, match="mask of layer 1"),
        lightkv.compress(model, "fastv", schedule=SCHEDULE),
    ):
        answer(model)


def test_a_layer_that_stores_nothing() -> None:
    """As layers do that share the keys of others: the record says that it grew."""
    model: Any = tiny_llava()
    layer = model.get_decoder().layers[3]
    own = layer.self_attn.forward

    def without(*args: Any, **kwargs: Any) -> Any:
        return own(*args, **{k: None if k in contact.CACHE_NAMES else v for k, v in kwargs.items()})

    layer.self_attn.forward = without
    with (
        pytest.raises(CompatibilityError, match="layer 3 of the cache holds 0 entries"),
        lightkv.compress(model, "random", schedule=SCHEDULE),
    ):
        answer(model)


def test_layers_that_are_left_out() -> None:
    model: Any = tiny_llava()
    decoder = model.get_decoder()
    with lightkv.compress(model, "random", schedule=SCHEDULE):
        decoder.layers = nn.ModuleList([*decoder.layers[:3], *decoder.layers[4:]])
        with pytest.raises(CompatibilityError, match="layer 4 was called after 3 others"):
            answer(model)


def test_an_attention_that_does_not_ask_its_config() -> None:
    """The tap is open, and nobody comes by."""
    model: Any = tiny_llava()
    attention = model.get_decoder().layers[1].self_attn
    own, plain = attention.forward, attention.config

    def deaf(*args: Any, **kwargs: Any) -> Any:
        tapped, attention.config = attention.config, plain
        try:
            return own(*args, **kwargs)
        finally:
            attention.config = tapped

    attention.forward = deaf
    with (
        pytest.raises(CompatibilityError, match="layer 1 did not call the function"),
        lightkv.compress(model, "fastv", schedule=SCHEDULE),
    ):
        answer(model)


def test_later_passes_are_not_checked() -> None:
    """The checks are of the first passes of each kind only."""
    model: Any = tiny_llava()
    with lightkv.compress(model, "fastv", schedule=SCHEDULE) as run:
        for _ in range(3):
            answer(model)
        attachment: Any = run._attachment
        left = attachment._selfcheck._left
        assert len(left) == 2  # a prefill on an empty cache, and decode steps
        assert set(left.values()) == {0}
        answer(model)
        assert not attachment._selfcheck.running


def test_passes_that_fail_are_not_counted() -> None:
    model: Any = tiny_llava()

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    with lightkv.compress(model, "fastv", schedule=SCHEDULE) as run:
        handle = model.get_decoder().layers[4].register_forward_pre_hook(fail)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                answer(model)
        handle.remove()
        attachment: Any = run._attachment
        assert set(attachment._selfcheck._left.values()) == {2}


# -- what is legal and looks odd -----------------------------------------------------------------------


def test_layers_inside_a_wrapper_are_no_fault_of_the_release() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model: Any = tiny_llava()
    with lightkv.compress(model, "fastv", schedule=SCHEDULE) as run:
        wanted = answer(model)
        kept = run.last.retention
    layers = model.get_decoder().layers
    for index, layer in enumerate(layers):
        layers[index] = checkpoint_wrapper(layer)
    with lightkv.compress(model, "random", schedule=SCHEDULE) as run, torch.no_grad():
        found = answer(model)
    assert found.shape == wanted.shape
    assert run.last.retention == kept


@torch.no_grad()
@pytest.mark.parametrize("vision", [True, False])
def test_a_mask_of_one_row_is_that_of_all_rows(vision: bool) -> None:
    """SDPA broadcasts it; here it hides the first token from everybody."""
    model: Any = tiny_llava()
    ids = IDS if vision else IDS[:, -2:].repeat(1, 4)
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, **({"pixel_values": pixels} if vision else {})}
    row = torch.ones(1, 1, 1, ids.shape[1], dtype=torch.bool)
    row[..., 0] = False
    both = [row, row.expand(-1, -1, ids.shape[1], -1).contiguous()]
    with lightkv.compress(model, "random", schedule=[{"after_layer": 0, "ratio": 0.5}]) as run:
        one = model(**inputs, attention_mask=both[0]).logits
    with lightkv.compress(model, "random", schedule=[{"after_layer": 0, "ratio": 0.5}]):
        two = model(**inputs, attention_mask=both[1]).logits
    torch.testing.assert_close(one, two, atol=1e-6, rtol=0)
    assert (run.last.retention < 1) is vision


def test_arguments_of_a_forward_are_read_once_for_each_class():
    def forward(self, hidden_states, position_ids):
        return hidden_states

    one, other = tiny_llava(), nn.Linear(2, 2)
    asking = type("Asking", (nn.Module,), {"forward": forward})()
    assert contact.taken_by(one) is contact.taken_by(tiny_llava())
    assert list(contact.taken_by(other)) == ["self", "input"]
    assert contact.needs_positions(asking)
    type(asking).forward = nn.Linear.forward  # as who patches a class: it is another forward
    assert not contact.needs_positions(asking)
