"""An attached model as a server uses it: many threads at once, and many requests one after another.

    python benchmarks/serving.py [--requests 10000] [--threads 4] [--every 500] [--warm 2000]
        [--skip-equal] [--json FILE] [--write docs/performance.md]

First 64 requests from 16 threads to the bundled model: pictures and questions mixed, every second
one through a streamer, each eighth without a picture, with two pictures or in a batch. The tokens
must be those of the same request alone. Then `--requests` requests of 50 shapes, in random order,
to a Qwen2.5-VL with random weights and a width that lets them pass in minutes; every `--every`
requests the memory is looked at. What it grows per request is the slope of a line fitted through
the samples after the first `--warm` requests, which fill the caches and the reports of the session.

The exit status is 1 when an answer differs, when a cache of the session holds more than it says it
does, or when memory grows by more than the bounds below.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np
import torch
from report import fill, machine, settings
from torch._subclasses.fake_tensor import FakeTensor
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    TextIteratorStreamer,
)

import lightkv
from lightkv.core.run.engine import LAYOUT_CACHE, PLAN_CACHE
from lightkv.demo.model import load
from lightkv.demo.scenes import held_out_scenes, prompt

Inputs = dict[str, Any]
Generate = Callable[[Inputs], torch.Tensor]

RSS_BOUND = 512.0
"""Bytes that the process may grow with each request: 5 MB in 10,000. It grows in steps, where several
threads need their most at once for the first time, and less and less often."""
ALLOCATED_BOUND = 64.0
"""Bytes that malloc may have given out and not taken back with each request. Exact, unlike RSS."""
BLOCK_BOUND = 0.5
"""Python objects that may be added with each request; a report alone is about 30."""
TENSOR_BOUND = 64.0
"""Bytes of living tensors that may be added with each request; one KV cache is 100 kB and more."""
BOUNDS = {
    "rss": RSS_BOUND,
    "allocated": ALLOCATED_BOUND,
    "blocks": BLOCK_BOUND,
    "tensors": TENSOR_BOUND,
}


# -- equal answers --------------------------------------------------------------------------------


@dataclass
class Equality:
    """What the threads got.

    Attributes:
        requests, threads: how many there were.
        equal: answers whose tokens, and text where streamed, are those of the request alone.
        turns: how often a forward pass came from another thread than the one before.
        alone, together: seconds of all requests one by one, and from all threads.
    """

    requests: int
    threads: int
    equal: int
    turns: int
    alone: float
    together: float


def mixed_inputs(processor: Any, count: int) -> list[Inputs]:
    """Inputs of `count` requests to the bundled model, no two alike."""
    made = []
    for number, (scene, questions) in enumerate(held_out_scenes(count, seed=12)):
        texts = [questions[(number + k) % len(questions)].text for k in range(2)]
        one, pictures = prompt(texts[0]), [scene.image]
        asked: str | list[str] = one
        if number % 8 == 1:
            asked, pictures = one.replace("<image>", ""), []
        elif number % 8 == 3:
            asked = one.replace("<image>", "<image> <image>")
            pictures.append(scene.image.rotate(180))
        elif number % 8 == 5:
            asked, pictures = [one, prompt(texts[1])], [scene.image, scene.image.rotate(180)]
        options = {"return_tensors": "pt", "padding": True}
        made.append(dict(processor(images=pictures or None, text=asked, **options)))
    return made


def equal_answers(requests: int = 64, threads: int = 16) -> Equality:
    """Requests from many threads to one attached model, against the same ones alone."""
    model, processor = load()
    inputs = mixed_inputs(processor, requests)
    options = {"max_new_tokens": 15, "do_sample": False}
    tokenizer = processor.tokenizer

    def plain(number: int) -> torch.Tensor:
        return model.generate(**inputs[number], **options)

    def streamed(number: int) -> tuple[torch.Tensor, str]:
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        call = {**inputs[number], **options, "streamer": streamer}

        def answer() -> torch.Tensor:
            try:
                return model.generate(**call)
            finally:
                streamer.end()  # or an error would leave the reader waiting

        with ThreadPoolExecutor(1) as own:
            job = own.submit(answer)
            text = "".join(streamer)
            return job.result(), text

    def agrees(number: int) -> bool:
        if number % 2 or len(inputs[number]["input_ids"]) > 1:  # streamers take one row only
            return torch.equal(plain(number), wanted[number])
        tokens, text = streamed(number)
        new = tokens[0, inputs[number]["input_ids"].shape[1] :]
        same = text.split() == tokenizer.decode(new, skip_special_tokens=True).split()
        return same and torch.equal(tokens, wanted[number])

    passes: list[int] = []
    session = lightkv.attach(model, "lightkv", retention=0.55)
    try:
        start = time.perf_counter()
        wanted = [plain(number) for number in range(requests)]
        between = time.perf_counter()
        handle = model.register_forward_pre_hook(lambda *_: passes.append(get_ident()))
        with ThreadPoolExecutor(threads) as pool:
            equal = sum(pool.map(agrees, range(requests)))
        end = time.perf_counter()
        handle.remove()
    finally:
        session.detach()
    turns = sum(a != b for a, b in pairwise(passes))
    return Equality(requests, threads, equal, turns, between - start, end - between)


# -- flat memory ----------------------------------------------------------------------------------


@dataclass
class Sample:
    """Memory between two requests.

    Attributes:
        requests: how many ran before.
        seconds: since the first began.
        rss: bytes of the process in memory.
        allocated: bytes that malloc has given out, those of tensors too; 0 where glibc is not there.
        blocks: Python objects, as the interpreter's allocator counts them.
        tensors: bytes of all living tensors, weights included.
        plans, layouts, reports: entries that the session keeps.
    """

    requests: int
    seconds: float
    rss: int
    allocated: int
    blocks: int
    tensors: int
    plans: int
    layouts: int
    reports: int


def tiny_qwen(width: int = 64, layers: int = 6) -> Any:
    """A Qwen2.5-VL with random weights, whose pictures may have any even number of rows and columns."""
    text = {
        "vocab_size": 200,
        "hidden_size": width,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 4,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "window_size": 16,
        "out_hidden_size": width,
        "fullatt_block_indexes": [0],
    }
    marks = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    ids = {name: number for number, name in enumerate(marks, start=5)}
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(vision_config=vision, text_config=text, **ids)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def shaped_inputs(model: Any, count: int) -> list[Inputs]:
    """Inputs of `count` different layouts: 25 sizes of picture, one picture or two, other texts."""
    sides, made = (8, 12, 16, 20, 24), []
    image, start, end = 5, 7, 8
    generator = torch.Generator().manual_seed(3)
    for number in range(count):
        rows, columns = sides[number % 5], sides[number // 5 % 5]
        pictures = 1 + number // 25 % 2
        row = [9 + number % 150] * (2 + number % 7)
        for _ in range(pictures):
            row += [start, *[image] * (rows * columns // 4), end]
        row += [10 + number % 150] * (3 + number % 4 + number // 50)
        ids = torch.tensor([row])
        patch = 3 * model.config.vision_config.temporal_patch_size * 4 * 4
        pixels = torch.randn(pictures * rows * columns, patch, generator=generator)
        made.append(
            {
                "input_ids": ids,
                "attention_mask": torch.ones_like(ids),
                "mm_token_type_ids": (ids == image).long(),
                "pixel_values": pixels,
                "image_grid_thw": torch.tensor([[1, rows, columns]] * pictures),
            }
        )
    return made


def resident() -> int:
    """Bytes of this process in memory."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import psutil

    return int(psutil.Process().memory_info().rss)


class MallocInfo(ctypes.Structure):
    """What glibc's `mallinfo2` returns, see malloc.h."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks")),
        ("keepcost", ctypes.c_size_t),
    ]


def allocated() -> int:
    """Bytes in use of all of malloc's arenas, and of what it mapped on its own."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, TypeError):  # another C library, or glibc before 2.33
        return 0
    mallinfo.restype = MallocInfo
    info = mallinfo()
    return int(info.uordblks + info.hblkhd)


def tensor_bytes() -> int:
    """Bytes of the storages of all living tensors; fake ones, which compilers keep, have none."""
    storages = {}
    for held in gc.get_objects():
        if issubclass(type(held), torch.Tensor) and not issubclass(type(held), FakeTensor):
            storage = held.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def look(session: lightkv.Session, requests: int, start: float) -> Sample:
    """A sample of the memory; cycles are collected first."""
    gc.collect()
    engine = session._engine
    return Sample(
        requests,
        time.perf_counter() - start,
        resident(),
        allocated(),
        sys.getallocatedblocks(),
        tensor_bytes(),
        len(engine._plans),
        len(engine._layouts),
        len(engine.reports),
    )


def memory_over_requests(
    requests: int, shapes: int = 50, threads: int = 4, every: int = 500
) -> list[Sample]:
    """Memory every so many requests of random shapes to one attached model."""
    model = tiny_qwen()
    inputs, rng = shaped_inputs(model, shapes), random.Random(0)
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "pad_token_id": 0}

    def serve(number: int) -> None:
        model.generate(**inputs[number], **options)

    session = lightkv.attach(model, "lightkv", retention=0.55)
    samples, start = [], time.perf_counter()
    try:
        with ThreadPoolExecutor(threads) as pool:
            for done in range(0, requests, every):
                batch = [rng.randrange(shapes) for _ in range(min(every, requests - done))]
                for job in [pool.submit(serve, number) for number in batch]:
                    job.result()
                del job
                samples.append(look(session, done + len(batch), start))
    finally:
        session.detach()
    return samples


def slopes(samples: Sequence[Sample], warm: int) -> dict[str, float]:
    """Growth with each request after the first `warm`: of a line through the samples.

    Raises:
        ValueError: fewer than three samples are left.
    """
    late = [sample for sample in samples if sample.requests >= warm]
    if len(late) < 3:
        raise ValueError(f"{len(late)} samples after {warm} requests: take more requests")
    x = [sample.requests for sample in late]
    return {
        name: float(np.polyfit(x, [getattr(sample, name) for sample in late], 1)[0])
        for name in BOUNDS
    }


def complaints(samples: Sequence[Sample], growth: dict[str, float]) -> list[str]:
    """What is not as it should be."""
    found = [
        f"{name} grow by {growth[name]:.2f} with each request, more than {bound:g}"
        for name, bound in BOUNDS.items()
        if growth[name] > bound
    ]
    most = {"plans": PLAN_CACHE, "layouts": LAYOUT_CACHE}
    for name, bound in most.items():
        held = max(getattr(sample, name) for sample in samples)
        if held > bound:
            found.append(f"the session holds {held} {name}, more than {bound}")
    return found


# -- output ---------------------------------------------------------------------------------------


def equality_line(found: Equality) -> str:
    return (
        f"{found.equal} of {found.requests} requests from {found.threads} threads give the tokens "
        f"of the request alone; passes changed threads {found.turns:,} times; "
        f"{found.together:.1f} s together, {found.alone:.1f} s one by one."
    )


def table(samples: Sequence[Sample], growth: dict[str, float]) -> list[str]:
    """The samples, thinned to ten rows, and the slopes under them."""
    lines = [
        "| requests | seconds | RSS, MiB | malloc, MiB | Python objects | tensors, MiB | plans | "
        "layouts | reports |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    step = max(1, len(samples) // 10)
    for s in samples[step - 1 :: step]:
        lines.append(
            f"| {s.requests:,} | {s.seconds:.0f} | {s.rss / 2**20:.2f} | "
            f"{s.allocated / 2**20:.2f} | {s.blocks:,} | "
            f"{s.tensors / 2**20:.2f} | {s.plans} | {s.layouts} | {s.reports} |"
        )
    lines.append(
        f"| per request | | {growth['rss']:+.1f} bytes | "
        f"{growth['allocated']:+.1f} bytes | {growth['blocks']:+.3f} | "
        f"{growth['tensors']:+.2f} bytes | | | |"
    )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--shapes", type=int, default=50)
    parser.add_argument("--threads", type=int, default=4, help="that ask while memory is watched")
    parser.add_argument("--every", type=int, default=500, help="requests between two samples")
    parser.add_argument("--warm", type=int, default=2000, help="requests before the fit begins")
    parser.add_argument("--skip-equal", action="store_true", help="memory only")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    problems, lines = [], []
    data: dict[str, Any] = {"machine": machine(), "options": settings(options)}
    if not options.skip_equal:
        found = equal_answers()
        data["equal"] = asdict(found)
        lines += [equality_line(found), ""]
        print(lines[0], flush=True)
        if found.equal != found.requests:
            problems.append(f"{found.requests - found.equal} answers differ")
    samples = memory_over_requests(options.requests, options.shapes, options.threads, options.every)
    growth = slopes(samples, options.warm)
    problems += complaints(samples, growth)
    data |= {"samples": [asdict(sample) for sample in samples], "growth": growth}
    memory = [
        *table(samples, growth),
        "",
        f"{options.requests:,} requests of {options.shapes} shapes from {options.threads} threads, "
        f"growth fitted after {options.warm:,}; {machine()}.",
    ]
    print("\n".join(memory))
    for problem in problems:
        print(problem, file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(data, indent=1, default=str) + "\n")
    if options.write:
        fill(options.write, "SERVING", "\n".join([*lines, *memory]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
