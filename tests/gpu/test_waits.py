"""No stage of any preset waits for the device, once the tables of its layout are there.

On a CUDA device torch itself refuses to wait. Without one the same code runs on tensors that have a
device and no values: whoever reads a value, or mixes host and device, fails there too.
"""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lightkv import VisionLayout
from lightkv.core.attention import QueryKeyView
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.encoder import VisionView
from lightkv.core.needs import Need
from lightkv.core.pipeline.pipeline import Pipeline, resolve_spec
from lightkv.core.plugins import registry
from lightkv.core.prompt import prompt_index
from lightkv.core.run.engine import Engine
from lightkv.testing.cases import takes_windows
from lightkv.testing.oracles import encoder_needs, on_cache

NO_CUDA = not torch.cuda.is_available()
cuda = [pytest.mark.gpu, pytest.mark.skipif(NO_CUDA, reason="needs a CUDA device")]
LAYOUT = VisionLayout.from_spans(
    [[(5, (1, 12, 12))], [(9, (1, 6, 8)), (60, (1, 6, 8))], []], length=170, pads=[0, 4, 0]
)
SHAPE = DecoderShape(4, 32, 4, 2, 8, 64, 100)
VISION, HEADS, WIDTH = 240, 4, 6
PRETENDED = "lazy"
"""A device that every build of torch knows by name and none has."""
PRESETS = sorted(registry().presets)


class Encoder(VisionView):
    """An encoder's view whose tensors lie on the device already."""

    def __init__(self, made):
        self.mass, self.key, self.query = made(VISION, HEADS), made(VISION, HEADS, 4), made(1, 4, 4)
        self.wide, self.weights = made(VISION, WIDTH), made(WIDTH, 32)

    def cls_attention(self, layer, *, split=True):
        mass = self.mass.softmax(0)
        return mass if split else mass.mean(1, keepdim=True)

    def keys(self, layer):
        return self.key

    def cls_query(self, layer):
        return self.query.expand(VISION, -1, -1)

    def features(self):
        return self.wide

    def project(self, features):
        return features @ self.weights


def schedule_of(preset):
    if on_cache(preset):
        scope = "all" if preset in ("elastic-cache", "rand") else "vision"
        return [{"site": "cache", "scope": scope, "ratio": 0.5}]
    windows = 2 if takes_windows(resolve_spec(preset)) else None
    layer = 0 if encoder_needs(preset) else 1
    return [{"after_layer": layer, "ratio": 0.5, "windows": windows}]


class Run:
    """Prefills of one engine on the same tensors of a device."""

    def __init__(self, preset, device):
        generator = torch.Generator().manual_seed(0)

        def made(*shape):
            return torch.randn(*shape, generator=generator).to(device)

        self.engine = Engine(Pipeline.build(preset, 4, schedule=schedule_of(preset)), SHAPE)
        self.hidden, self.encoder = made(3, 170, 32), Encoder(made)
        self.query, self.key, self.value = (made(3, heads, 170, 8) for heads in (4, 2, 2))

    def prefill(self):
        """What a session does around the layers: the tensors it leaves, and how many tokens."""
        prefill = self.engine.begin(VisionLayout(LAYOUT.length, LAYOUT.samples))  # as a batch has
        prefill.vision = self.encoder
        prefill.read_embeddings(self.hidden)
        hidden, left = self.hidden, []
        for layer in (0, 1):
            if prefill.needs(layer) - {Need.EMBEDDINGS}:
                prefill.read_attention(layer, self.view(prefill))
            hidden = prefill.apply(layer, hidden)
        for layer in (0, 1):
            if prefill.cache_needs():
                prefill.read_cache_attention(layer, self.view(prefill))
            left += prefill.compress_cache(layer, self.key, self.value) or ()
        counts = prefill.layout.vision_counts
        if prefill.cached:
            counts = prefill.cached[0].layout.vision_counts
        return [hidden, *left], counts

    def view(self, prefill):
        prompt = prompt_index(prefill.layout, self.hidden.device)
        return QueryKeyView(self.query, self.key, 8**-0.5, prompt)


class Watched(TorchDispatchMode):
    """Refuses copies between host and device that the host would wait for, as CUDA does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        copies = {torch.ops.aten._to_copy.default: 0, torch.ops.aten.copy_.default: 1}
        if func in copies and args[copies[func]].device != out.device:
            blocking = not (kwargs.get("non_blocking") or args[2:3] == (True,))
            assert not blocking, f"the host waits for a copy of {tuple(out.shape)}"
        return out


@contextmanager
def no_waiting(device):
    """Waiting for the device is an error inside."""
    if device == PRETENDED:
        with Watched():
            yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("device", [PRETENDED, pytest.param("cuda", marks=cuda)])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_prefill_never_waits_for_the_device(preset, device):
    """Observing the attention of a layer, and the stage after it or on its cache."""
    with FakeTensorMode() if device == PRETENDED else nullcontext():
        run = Run(preset, device)
        first, left = run.prefill()  # makes the tables
        with no_waiting(device):
            again, same = run.prefill()
    assert left == same
    assert 0 < sum(left) < VISION
    assert [each.shape for each in again] == [each.shape for each in first]
    assert all(each.device == run.hidden.device for each in again)


def test_waiting_is_noticed():
    """The three ways to wait that the test above must see without a GPU."""
    with FakeTensorMode():
        values, host = torch.randn(4, device=PRETENDED), torch.randn(4)
        with Watched():
            host.to(PRETENDED, non_blocking=True)
            with pytest.raises(AssertionError, match="waits for a copy"):
                host.to(PRETENDED)
            with pytest.raises(DataDependentOutputException):
                values.sum().item()
            with pytest.raises(RuntimeError, match="same device"):
                values + host
