"""True-size models on a GPU: time to first token, decode rate and peak memory, with random weights.

    python benchmarks/gpu.py --part 7b|13b|qwen|video [--batches 1 8] [--attention sdpa]
        [--strategies lightkv:0.55,lightkv-plus:0.35,fastv:0.35] [--rounds 5] [--decode 32]
        [--seconds 60] [--json FILE] [--write docs/performance.md]
    python benchmarks/gpu.py --part 7b --device cpu --small     # the same code at toy sizes

7b, 13b: LLaVA-NeXT with one picture of 2,144 tokens; qwen: Qwen2.5-VL-7B with one picture of 1,280;
video: Qwen2.5-VL-7B with 64 frames of 1,024 tokens (65,536), windows over space and time. bfloat16,
SDPA, and FlashAttention 2 where it is installed (`--attention flash_attention_2`). Rounds are
interleaved; every time stamp waits for the device; peak memory is that of the allocator beyond the
weights, over one generation. A strategy is a preset and its retention. With `--seconds` no round begins
after that time. A batch that does not fit is said in its row, and the exit status is 1. Weights are
random, so nothing here speaks of quality.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from end_to_end import VANILLA, Runner
from report import fill, machine, settings
from transformers import (
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from wide import interleaved, ratio_with_spread

from lightkv.checkpoints.published import DESCRIPTIONS
from lightkv.core.run.session import prepare

PARTS = ("7b", "13b", "qwen", "video")
TEXT = 75
VIDEO = [
    {"space": 8, "time": 16},
    {"space": 4, "time": 8},
    {"space": 2, "time": 4},
]
"""Windows of the three stages for 64 frames of 32 × 32: 64 to 4,096 tokens before merging."""


def sizes(name: str, small: bool) -> dict[str, Any]:
    """Sizes of a decoder, or of one of the same make that fits anywhere."""
    shape = DESCRIPTIONS[name].shape
    found = {
        "num_hidden_layers": shape.num_layers,
        "hidden_size": shape.hidden_size,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "intermediate_size": shape.intermediate_size,
        "vocab_size": shape.vocab_size,
    }
    if not small:
        return found
    heads = 4 * shape.num_heads // shape.num_kv_heads
    return found | {
        "num_hidden_layers": 12,
        "hidden_size": 16 * heads,
        "num_attention_heads": heads,
        "num_key_value_heads": 4,
        "intermediate_size": 96,
        "vocab_size": 1024,
    }


def llava_next(name: str, small: bool) -> tuple[type[Any], Any]:
    """Class and config of LLaVA-NeXT; the tower is CLIP ViT-L/14-336."""
    text = LlamaConfig(**sizes(name, small), max_position_embeddings=32768)
    config = LlavaNextConfig(text_config=text, image_token_index=text.vocab_size - 1)
    if small:
        config.vision_config.num_hidden_layers = 2
        config.vision_config.hidden_size = config.vision_config.intermediate_size = 32
        config.vision_config.num_attention_heads = 2
    return LlavaNextForConditionalGeneration, config


def qwen(small: bool) -> tuple[type[Any], Any]:
    """Class and config of Qwen2.5-VL."""
    text = sizes("qwen2.5-vl-7b", small)
    head = text["hidden_size"] // text["num_attention_heads"]
    section = [head // 8, head * 3 // 16, head * 3 // 16]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section}
    text |= {"rope_parameters": rope, "max_position_embeddings": 131072}
    vision = {"hidden_size": 1280, "out_hidden_size": text["hidden_size"]}
    ids = {}
    if small:
        ids = {"image_token_id": 1001, "video_token_id": 1002}
        ids |= {"vision_start_token_id": 1003, "vision_end_token_id": 1004}
        text |= {"bos_token_id": 1, "eos_token_id": 2}
        vision |= {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32}
        vision |= {"fullatt_block_indexes": [1]}
    return Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, **ids
    )


def build(part: str, small: bool, device: str, attention: str) -> Any:
    """The model of a part, in bfloat16 with random weights made on the device."""
    cls, config = (
        qwen(small) if part in ("qwen", "video") else llava_next(f"llava-next-{part}", small)
    )
    config._attn_implementation = attention
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return cls(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def ids_around(token: int, count: int, batch: int, frame: tuple[int, int] | None) -> torch.Tensor:
    """`[B, N]` text, the placeholders (between the tokens of `frame`, if any), text."""
    words = torch.randint(10, 1000, (batch, TEXT), generator=torch.Generator().manual_seed(1))
    middle = torch.full((batch, count), token)
    if frame is not None:
        ends = [torch.full((batch, 1), each) for each in frame]
        middle = torch.cat([ends[0], middle, ends[1]], dim=1)
    return torch.cat([words[:, :35], middle, words[:, 35:]], dim=1)


def inputs_of(part: str, model: Any, batch: int, small: bool) -> dict[str, torch.Tensor]:
    """A batch of equal prompts."""
    config, device = model.config, model.device
    if part in ("qwen", "video"):
        frames, rows, columns = (1, 64, 80) if part == "qwen" else (64, 64, 64)
        if small:
            frames, rows, columns = (1, 32, 32) if part == "qwen" else (32, 32, 32)
        token = config.image_token_id if part == "qwen" else config.video_token_id
        pixels = torch.randn(batch * frames * rows * columns, 1176, device=device)
        grid = torch.tensor([[frames, rows, columns]] * batch, device=device)
        ids = ids_around(
            token,
            frames * rows * columns // 4,
            batch,
            (config.vision_start_token_id, config.vision_end_token_id),
        )
        names = ("pixel_values", "image_grid_thw")
        if part == "video":
            names = ("pixel_values_videos", "video_grid_thw")
        found = {names[0]: pixels.to(torch.bfloat16), names[1]: grid}
        kinds = (ids == token).long() * (1 if part == "qwen" else 2)
        found["mm_token_type_ids"] = kinds.to(device)
    else:
        # 448 × 672 pixels on 2 × 2 tiles: 32 rows of 48 patches and a newline token, and the base view.
        pixels = torch.randn(batch, 5, 3, 336, 336, device=device).to(torch.bfloat16)
        ids = ids_around(config.image_token_index, 576 + 32 * 49, batch, None)
        found = {
            "pixel_values": pixels,
            "image_sizes": torch.tensor([[448, 672]] * batch, device=device),
        }
    ids = ids.to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **found}


def clock(device: str) -> Any:
    """Seconds, once the device has done all that it was given."""
    if device == "cpu":
        return time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronised


def peak_memory(run: Any, device: str) -> float | None:
    """Bytes above what is held already, during one run; None without a GPU."""
    if device == "cpu":
        run()
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return float(torch.cuda.max_memory_allocated() - before)


def measure(part: str, model: Any, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """Rows of one batch size."""
    held = {}
    for entry in options.strategies.split(","):
        preset, _, retention = entry.partition(":")
        changes: dict[str, Any] = {"retention": float(retention or 0.55)}
        if part == "video" and preset == "lightkv":
            changes["schedule"] = {"windows": VIDEO}
        held[preset] = prepare(model, preset, **changes)
    inputs = inputs_of(part, model, batch, options.small)
    runner = Runner(model, inputs, held, clock(options.device))
    names = [VANILLA, *held]
    peaks = {
        name: peak_memory(lambda name=name: runner.timed(name, 1), options.device) for name in names
    }
    found = interleaved(
        names, lambda name: runner.timed(name, options.decode), options.rounds, options.until
    )
    rows: dict[str, Any] = {}
    for name in names:
        first, steps = zip(*found[name], strict=True)
        base_first, base_steps = zip(*found[VANILLA], strict=True)
        row: dict[str, Any] = {
            "ttft_seconds": statistics.median(first),
            "ttft": ratio_with_spread(list(first), list(base_first)),
            "tokens_per_second": batch / statistics.median(steps),
            "step_seconds": statistics.median(steps),
            "step": ratio_with_spread(list(steps), list(base_steps)),
            "rounds": len(first),
            "peak_bytes": peaks[name],
        }
        if name != VANILLA:
            report = held[name].last
            row["retention"] = report.retention
            row["flops"] = report.flops / report.flops_vanilla
        rows[name] = row
    return rows


def table(data: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| model | batch | strategy | retention | FLOPs ratio | TTFT | TTFT ratio [extremes] "
        "| decode step | decode (tokens/s) | peak memory (GiB) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for label, batches in data.items():
        for batch, rows in batches.items():
            for name, row in rows.items():
                if "error" in row:
                    lines.append(f"| {label} | {batch} | {name} | {row['error']} |" + " |" * 6)
                    continue
                peak, ratio = row["peak_bytes"], row["ttft"]
                lines.append(
                    f"| {label} | {batch} | {name} | {row.get('retention', 1):.3f} "
                    f"| {row.get('flops', 1):.3f} | {1000 * row['ttft_seconds']:.0f} ms "
                    f"| {ratio['ratio']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}] "
                    f"| {1000 * row['step_seconds']:.1f} ms | {row['tokens_per_second']:.1f} "
                    f"| {'' if peak is None else f'{peak / 2**30:.2f}'} |"
                )
    return "\n".join(lines)


def measure_all(options: argparse.Namespace, write: Callable[[dict[str, Any]], None]) -> bool:
    """All parts and batches, handed to `write` after each; whether every one of them fitted."""
    data: dict[str, Any] = {}
    fitted = True
    for part in options.part:
        model = build(part, options.small, options.device, options.attention)
        label = f"{part}, {options.attention}" + (", small" if options.small else "")
        data[label] = {}
        for batch in [1] if part == "video" else options.batches:
            try:
                data[label][batch] = measure(part, model, batch, options)
            except torch.OutOfMemoryError as error:
                fitted = False
                data[label][batch] = {"all": {"error": f"does not fit: {str(error)[:80]}"}}
            write(data)
            gc.collect()
            if options.device != "cpu":
                torch.cuda.empty_cache()
        del model
    return fitted


def main(arguments: list[str] | None = None) -> int:
    """Command line; 1 if a batch did not fit."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--strategies", default="lightkv:0.55,lightkv-plus:0.35,fastv:0.35")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=math.inf, help="no round begins later")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="toy sizes, to try the script")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args(arguments)
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; try --device cpu --small")
    found: dict[str, Any] = {"machine": machine(), "options": settings(options)}
    options.until = started + options.seconds

    def write(data: dict[str, Any]) -> None:
        found.update(parts=data, table=table(data))
        if options.json:
            options.json.write_text(json.dumps(found, indent=1, default=str) + "\n")

    fitted = measure_all(options, write)
    print(found["table"])
    if options.write:
        fill(options.write, "GPU", f"{found['table']}\n\n{machine()}.")
    return 0 if fitted else 1


if __name__ == "__main__":
    sys.exit(main())
