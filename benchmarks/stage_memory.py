"""Peak extra memory of one LightKV stage, guidance included, as a multiple of the hidden states.

    python benchmarks/stage_memory.py [--vision 2304] [--heads 32] [--width 4096] [--text 64]

Counts at the dispatcher what the guidance (inside the attention call) and the stage allocate beyond
hidden states, query and key, which the layer holds anyway; and the largest single tensor, beside the
size that an [H, N, N] matrix would have.
"""

from __future__ import annotations

import argparse
import json

import torch

from lightkv import Stage, VisionLayout
from lightkv.core.attention import QueryKeyView
from lightkv.core.prompt import prompt_index
from lightkv.core.stage.stage import Readings
from lightkv.core.stage.step import run_stage
from lightkv.lab.live_bytes import LiveBytes


def measure(
    vision: int, heads: int, width: int, text: int, dtype: torch.dtype, windows: int
) -> dict[str, object]:
    """Figures for one size; random hidden states, query and key of true shape."""
    side = round(vision**0.5)
    length = side * side + text
    layout = VisionLayout.from_spans([[(text // 2, (1, side, side))]], length=length)
    torch.manual_seed(0)
    hidden = torch.randn(1, length, width, dtype=dtype)
    query = torch.randn(1, heads, length, width // heads, dtype=dtype)
    key = torch.randn(1, heads, length, width // heads, dtype=dtype)
    stage = Stage.preset("lightkv", windows=windows, ratio=0.5)
    plan, prompt = stage.plan(layout), prompt_index(layout, hidden.device)
    assert stage.scorer is not None
    phases: dict[str, object] = {}
    largest = (0, ())
    score = None
    for phase in ("guidance", "stage"):
        with LiveBytes().hold(hidden, query, key) as live:
            if phase == "guidance":
                view = QueryKeyView(query, key, (width // heads) ** -0.5, prompt)
                score = stage.scorer.read_attention(view)
                del view
            else:
                result = run_stage(hidden, layout, stage, plan, readings=Readings(score))
                assert result.hidden_states.shape[1] == plan.length
        phases[phase] = live.peak / (hidden.numel() * hidden.element_size())
        largest = max(largest, live.largest)
    item = torch.finfo(dtype).bits // 8
    return {
        "vision_tokens": side * side,
        "text_tokens": text,
        "heads": heads,
        "width": width,
        "dtype": str(dtype).removeprefix("torch."),
        "hidden_states_bytes": hidden.numel() * item,
        "peak_extra_over_hidden_states": phases,
        "largest_tensor_bytes": largest[0],
        "largest_tensor_shape": list(largest[1]),
        "attention_matrix_bytes": heads * length * length * item,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("vision", 2304), ("heads", 32), ("width", 4096), ("text", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--windows", type=int, default=4)
    options = vars(parser.parse_args())
    for dtype in (torch.bfloat16, torch.float32):
        print(json.dumps(measure(dtype=dtype, **options), indent=1))


if __name__ == "__main__":
    main()
