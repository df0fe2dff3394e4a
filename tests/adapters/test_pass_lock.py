"""Threads in one session, wrappers that are refused, and what a failed call leaves behind."""

from __future__ import annotations

import sys
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_serving import SCHEDULE, generate, inputs
from tiny import tiny_llava
from torch import distributed, nn

import lightkv
from lightkv.core.errors import LayoutError, ModelError, SessionError


def compressed(model: nn.Module, **options: Any) -> Any:
    return lightkv.compress(model, "lightkv", schedule=SCHEDULE, **options)


def started(work: Any) -> tuple[threading.Thread, list[Any]]:
    """`work()` in a thread that has begun, and where its result or error will stand."""
    out: list[Any] = []

    def run() -> None:
        try:
            out.append(work())
        except Exception as error:  # noqa: BLE001 - handed to the caller
            out.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, out


def in_thread(work: Any) -> Any:
    """What `work()` returned, or the error it raised, in another thread."""
    return result_of(started(work))


def result_of(running: tuple[threading.Thread, list[Any]]) -> Any:
    """The same of work that has begun."""
    running[0].join(timeout=60)
    assert not running[0].is_alive()
    return running[1][0]


# -- threads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["vision_tower", "layer"])
def test_a_pass_waits_for_the_pass_of_another_thread(where: str) -> None:
    """And both compute what they compute alone."""
    model = tiny_llava()
    inner: Any = model.model
    target = (
        inner.vision_tower.vision_model
        if hasattr(inner.vision_tower, "vision_model")
        else inner.vision_tower
    )
    if where == "layer":
        target = inner.language_model.layers[3].mlp
    others: list[Any] = []

    def meanwhile(*_: Any) -> None:
        handle.remove()
        others.append(started(lambda: model(**inputs()).logits.detach()))
        others[0][0].join(timeout=0.2)
        assert others[0][0].is_alive(), "the other pass did not wait"

    with compressed(model) as run:
        with torch.no_grad():
            wanted = model(**inputs()).logits
            handle = target.register_forward_pre_hook(meanwhile)
            found = model(**inputs()).logits
        assert torch.equal(found, wanted)
        assert torch.equal(result_of(others[0]), wanted)
        assert len(run.reports) == 3
        assert torch.equal(in_thread(lambda: generate(model)), generate(model))


@pytest.mark.parametrize("pipeline", ["lightkv", "hired"])
def test_many_threads_get_the_answers_of_single_requests(pipeline: str) -> None:
    """Also where stages read the vision encoder, which runs outside of passes."""
    from concurrent.futures import ThreadPoolExecutor

    model: Any = tiny_llava()
    requests = []
    for seed in range(4):
        given = inputs()
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randn(given["pixel_values"].shape, generator=generator)
        requests.append({**given, "pixel_values": pixels})

    def answer(given: dict[str, Any]) -> torch.Tensor:
        out = model.generate(
            **given,
            max_new_tokens=4,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        return torch.stack(out.logits)

    schedule = SCHEDULE if pipeline == "lightkv" else [{"after_layer": 0, "ratio": 0.5}]
    with lightkv.compress(model, pipeline, schedule=schedule, profile=True) as run:
        wanted = [answer(given) for given in requests]
        assert not torch.equal(wanted[0], wanted[1])
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(answer, requests * 3))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted * 3, strict=True))
    assert all((report.time_to_first_token or 0) > 0 for report in run.reports)


def test_a_session_ends_between_two_passes() -> None:
    """`detach` waits for the pass of another thread."""
    model: Any = tiny_llava()
    session = lightkv.attach(model, "lightkv", schedule=SCHEDULE)
    wanted = generate(model)
    others: list[Any] = []

    def meanwhile(*_: Any) -> None:
        handle.remove()
        others.append(started(session.detach))
        others[0][0].join(timeout=0.2)
        assert others[0][0].is_alive(), "the session ended in the middle of a pass"

    handle = model.model.language_model.layers[5].mlp.register_forward_pre_hook(meanwhile)
    found = generate(model, max_new_tokens=1)
    assert torch.equal(found, wanted[:, : found.shape[1]])
    result_of(others[0])
    assert not session.active


def test_generations_of_two_threads_may_take_turns_pass_by_pass() -> None:
    """Pictures of one thread are not taken for those of the other, nor caches mixed."""
    model = tiny_llava()
    with compressed(model):
        wanted = generate(model, max_new_tokens=8)
        turn, other = threading.Semaphore(1), threading.Semaphore(0)
        finished = threading.Event()

        def take_turns(mine: threading.Semaphore, theirs: threading.Semaphore) -> torch.Tensor:
            from transformers import StoppingCriteria

            class Yield(StoppingCriteria):
                def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
                    theirs.release()
                    if not finished.is_set():
                        assert mine.acquire(timeout=30)
                    return torch.zeros(ids.shape[0], dtype=torch.bool)

            assert mine.acquire(timeout=30)
            out = generate(model, max_new_tokens=8, stopping_criteria=[Yield()])
            finished.set()
            theirs.release()
            return out

        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(take_turns(turn, other)))
        thread.start()
        results.append(take_turns(other, turn))
        thread.join(timeout=60)
    assert len(results) == 2
    assert all(torch.equal(result, wanted) for result in results)


def test_a_pass_that_was_interrupted_does_not_lock_other_threads_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also while somebody keeps its traceback, as notebooks do, and without a look at all stacks.

    `sys._current_frames` may wait for ever in Python 3.11, when a garbage collection starts in it.
    """

    def unsafe() -> None:
        raise AssertionError("stacks of all threads were asked for")

    monkeypatch.setattr(sys, "_current_frames", unsafe)
    model: Any = tiny_llava()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with compressed(model):
        wanted = generate(model)
        handle = model.model.language_model.layers[3].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt) as kept:
            generate(model)
        handle.remove()
        assert torch.equal(in_thread(lambda: generate(model)), wanted)
        assert torch.equal(generate(model), wanted)
        assert kept.tb is not None


# -- failed calls ----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["generate", "forward"])
@pytest.mark.parametrize("fault", ["vision_tower", "layout"])
def test_a_call_that_fails_before_the_decoder_leaves_no_clock_running(
    call: str, fault: str
) -> None:
    model: Any = tiny_llava()
    batch = inputs()

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    with compressed(model, profile=True) as run:
        if fault == "layout":
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
            batch["attention_mask"][0, -1] = 0
            error: Any = LayoutError
        else:
            handle = model.model.vision_tower.register_forward_hook(fail)
            error = ZeroDivisionError
        runs: Any = {"forward": model, "generate": partial(model.generate, max_new_tokens=2)}
        with pytest.raises(error):
            runs[call](**batch)
        profiler = run._engine.profiler
        assert profiler._start is None
        assert profiler._step is None
        if fault == "vision_tower":
            handle.remove()
        generate(model)
        assert run.last.time_to_first_token is not None


# -- wrappers --------------------------------------------------------------------------------------


def refused(model: nn.Module, match: str) -> None:
    before = [len(module._forward_pre_hooks) for module in model.modules()]
    with pytest.raises(ModelError, match=match) as error, compressed(model):
        pass
    assert error.value.remedy
    assert error.value.field == "model"
    assert [len(module._forward_pre_hooks) for module in model.modules()] == before


@pytest.mark.parametrize("what", ["model", "inner", "decoder", "layer", "layer in place", "attn"])
def test_compiled_decoders_are_refused(what: str) -> None:
    model: Any = tiny_llava()
    decoder = model.model.language_model
    if what == "model":
        model.compile(backend="eager")
    elif what == "inner":
        model.model.compile(backend="eager")
    elif what == "decoder":
        decoder.compile(backend="eager")
    elif what == "layer":
        decoder.layers[3] = torch.compile(decoder.layers[3], backend="eager")
    elif what == "layer in place":
        decoder.layers[3].compile(backend="eager")
    else:
        decoder.layers[3].self_attn.compile(backend="eager")
    refused(model, "compiled")


@pytest.mark.parametrize(
    "what", ["model.forward", "inner.forward", "decoder.forward", "layer.forward"]
)
@pytest.mark.parametrize("used", [False, True])
def test_compiled_forwards_are_refused(what: str, used: bool) -> None:
    """Code that was compiled before the hooks came runs without them."""
    model: Any = tiny_llava()
    where, _ = what.split(".")
    inner = model.model
    decoder = inner.language_model
    modules = {"model": model, "inner": inner, "decoder": decoder, "layer": decoder.layers[3]}
    target = modules[where]
    target.forward = torch.compile(target.forward, backend="eager")
    if used:
        generate(model, max_new_tokens=1)
    refused(model, "compiled")


@pytest.mark.parametrize("how", ["compile", "forward"])
def test_a_model_that_is_compiled_inside_its_session_is_refused(how: str) -> None:
    model: Any = tiny_llava()
    with compressed(model) as run:
        wanted = generate(model)
        if how == "compile":
            model.compile(backend="eager")
        else:
            model.forward = torch.compile(model.forward, backend="eager")
        with pytest.raises(ModelError, match="compiled"):
            generate(model)
        model.__dict__.pop("forward", None)
        model._compiled_call_impl = None
        assert torch.equal(generate(model), wanted)
        assert len(run.reports) == 2


def test_a_pass_that_runs_past_the_hooks_is_an_error() -> None:
    """Whatever it is that calls forwards instead of modules: nobody is told that all is well."""
    model: Any = tiny_llava()
    own = model.forward

    def direct(**kwargs: Any) -> Any:
        for module in model.model.modules():
            module._forward_pre_hooks.clear()
            module._forward_hooks.clear()
        return own(**kwargs)

    with compressed(model) as run:
        model.forward = direct
        with pytest.raises(ModelError, match="hooks of the session were not"):
            model(**inputs())
    assert not run.reports


def test_ctrl_c_leaves_no_clock_running() -> None:
    """The next request's time to its first token is its own."""
    model: Any = tiny_llava()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with compressed(model, profile=True) as run:
        handle = model.model.language_model.layers[3].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            generate(model)
        handle.remove()
        profiler = run._engine.profiler
        assert profiler._start is not None
        profiler._start -= 1000.0  # as if a quarter of an hour had passed
        generate(model)
        assert 0 < run.last.time_to_first_token < 900


def test_the_vision_tower_and_parts_of_layers_may_be_compiled() -> None:
    model: Any = tiny_llava()
    with compressed(model):
        wanted = generate(model)
    model.model.vision_tower.compile(backend="eager")
    for layer in model.model.language_model.layers:
        layer.mlp = torch.compile(layer.mlp, backend="eager")
    with compressed(model) as run:
        assert torch.equal(generate(model), wanted)
    assert run.last.retention < 0.8


@pytest.fixture
def one_process(tmp_path: Any) -> Any:
    store = f"file://{tmp_path}/store"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_replicated_and_sharded_models_are_refused_by_name(one_process: None) -> None:
    from torch.distributed.fsdp import fully_shard

    replicated = nn.parallel.DistributedDataParallel(tiny_llava())
    refused(replicated, "replicated")
    with compressed(replicated.module):
        generate(replicated.module)
    mesh = distributed.init_device_mesh("cpu", (1,))
    sharded: Any = tiny_llava()
    fully_shard(sharded.model.language_model.layers[1], mesh=mesh)
    refused(sharded, "fully sharded")


@pytest.mark.parametrize(
    ("axis", "plan"), [("pp_size", {}), ("tp_size", {"norm": "sequence_parallel"})]
)
def test_other_ways_to_spread_a_model_are_refused(
    one_process: None, axis: str, plan: dict[str, str]
) -> None:
    model: Any = tiny_llava()
    model.config.distributed_config = SimpleNamespace(**{axis: 2})
    model._tp_plan = plan
    with pytest.raises(ModelError, match="spread over processes"), compressed(model):
        pass


# -- caches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["static", "offloaded_static", "hybrid_chunked"])
def test_caches_of_one_length_are_refused(kind: str) -> None:
    model = tiny_llava()
    with compressed(model), pytest.raises(SessionError, match="same length") as error:
        generate(model, cache_implementation=kind)
    assert "DynamicCache" in str(error.value)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_hybrid_is_a_dynamic_cache_to_transformers() -> None:
    model = tiny_llava()
    with compressed(model):
        assert torch.equal(generate(model, cache_implementation="hybrid"), generate(model))


def test_an_offloaded_cache_gives_the_same_tokens() -> None:
    model = tiny_llava()
    with compressed(model):
        wanted = generate(model)
        try:
            found = generate(model, cache_implementation="offloaded")
        except (RuntimeError, AssertionError) as error:
            pytest.skip(f"transformers cannot on this machine: {error}")
    assert torch.equal(found, wanted)
