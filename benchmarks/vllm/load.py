"""Load on a server: `vllm bench serve` with random pictures, run in this process.

It is the command's own code, called with the command's own arguments; a process for each round would
spend most of its time on imports.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from server import Server, Watch

WORDS = 16
"""Random words asked for; one less comes, as the tokenizer's `<bos>` is counted."""
PROMPT_TEXT = WORDS - 1 + 4
"""Tokens of a prompt beside its picture: the words, and those of the dummy model's chat template."""


class LoadError(RuntimeError):
    """Some requests failed."""


@dataclass(frozen=True)
class Load:
    """What a server did under some requests.

    Attributes:
        requests: how many there were, all sent at once or `concurrency` at a time.
        seconds: from the first request to the end of the last.
        requests_per_second, tokens_per_second: of these seconds; tokens are generated ones.
        mean_ttft, median_ttft: seconds from sending a request to its first token.
        prefill: mean seconds from its first step to its first token, as the engine tells it.
        peak_running: most requests that ran at once.
        preemptions: requests that lost their place.
        prompt_tokens: of one request, pictures included.
    """

    requests: int
    seconds: float
    requests_per_second: float
    tokens_per_second: float
    mean_ttft: float
    median_ttft: float
    prefill: float
    peak_running: int
    preemptions: int
    prompt_tokens: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def put_load(
    server: Server,
    pixels: int,
    requests: int,
    new_tokens: int,
    seed: int,
    concurrency: int | None = None,
) -> Load:
    """Requests with one picture of pixels x pixels each and `new_tokens` tokens to generate.

    Args:
        seed: of pictures and words; another seed for each load keeps caches of pictures out.
        concurrency: requests at a time; all at once by default.

    Raises:
        LoadError: a request failed.
    """
    options: dict[str, Any] = {
        "backend": "openai-chat",
        "base-url": server.url,
        "endpoint": "/v1/chat/completions",
        "model": server.model,
        "dataset-name": "random-mm",
        "num-prompts": requests,
        "random-input-len": WORDS,
        "random-output-len": new_tokens,
        "random-mm-base-items-per-request": 1,
        "random-mm-limit-mm-per-prompt": '{"image": 1}',
        "random-mm-bucket-config": f"{{({pixels}, {pixels}, 1): 1.0}}",
        "temperature": 0,
        "seed": seed,
        "ready-check-timeout-sec": 0,
    }
    if concurrency:
        options["max-concurrency"] = concurrency
    before = server.metrics()
    with Watch(server) as watch:
        told = _bench_serve(options)
    if told["completed"] != requests:
        raise LoadError(
            f"{requests - told['completed']} of {requests} failed:\n{server.log()[-4000:]}"
        )
    during = server.metrics()
    during.subtract(before)
    return Load(
        requests=requests,
        seconds=told["duration"],
        requests_per_second=told["request_throughput"],
        tokens_per_second=told["output_throughput"],
        mean_ttft=told["mean_ttft_ms"] / 1000,
        median_ttft=told["median_ttft_ms"] / 1000,
        prefill=_mean(during, "vllm:request_prefill_time_seconds"),
        peak_running=watch.peak,
        preemptions=round(during["vllm:num_preemptions_total"]),
        prompt_tokens=_mean(during, "vllm:request_prompt_tokens"),
    )


def _bench_serve(options: Mapping[str, Any]) -> dict[str, Any]:
    """What `vllm bench serve` would write with `--save-result`; what it prints is thrown away."""
    from vllm.benchmarks.serve import add_cli_args, main_async
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with contextlib.redirect_stdout(io.StringIO()):
        return dict(asyncio.run(main_async(parser.parse_args([*words, "--disable-tqdm"]))))


def _mean(metrics: Mapping[str, float], name: str) -> float:
    return metrics[f"{name}_sum"] / metrics[f"{name}_count"]
