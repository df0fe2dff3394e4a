"""Time to the first token, and memory, of single prompts: what a cell costs on this machine."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightkv.core.run.session import Session
from lightkv.lab.grids.cells import first_about
from lightkv.lab.live_bytes import LiveBytes
from lightkv.lab.outcomes import Measured, Sample
from lightkv.lab.subject import Subject

PROMPTS = 5
"""Pictures of which the first question is timed."""


def measure(
    subject: Subject, session: Session, samples: Sequence[Sample], workers: int = 1
) -> Measured:
    """Prefill single prompts in a prepared session: one to warm up, each timed, one for its memory.

    Args:
        subject: outside of any session.
        session: not attached; its reports are not those of the samples.
        samples: of a task; the same ones give the same prompts.
        workers: processes of the run.
    """
    import torch

    inputs = [subject.inputs([sample]) for sample in first_about(samples, PROMPTS)]
    longest = max(inputs, key=lambda each: each["input_ids"].shape[-1])
    with subject.within(session):
        subject.first_token(longest)
        times = sorted(_seconds(subject, each) for each in inputs)
        peak = _peak_bytes(subject, longest)
    return Measured(
        first_token=statistics.median(times),
        fastest=times[0],
        slowest=times[-1],
        prompts=len(times),
        peak_bytes=peak,
        machine=machine(subject.model.device),
        threads=torch.get_num_threads(),
        workers=workers,
    )


def _seconds(subject: Subject, inputs: Any) -> float:
    _finish(subject)
    start = time.perf_counter()
    subject.first_token(inputs)
    _finish(subject)
    return time.perf_counter() - start


def _finish(subject: Subject) -> None:
    """Wait for what a GPU was told to do."""
    import torch

    if subject.model.device.type == "cuda":
        torch.cuda.synchronize(subject.model.device)


def _peak_bytes(subject: Subject, inputs: Any) -> int:
    import torch

    model, device = subject.model, subject.model.device
    if device.type == "cuda":
        _finish(subject)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        subject.first_token(inputs)
        _finish(subject)
        return int(torch.cuda.max_memory_allocated(device) - before)
    given = (each for each in dict(inputs).values() if isinstance(each, torch.Tensor))
    with LiveBytes().hold(*model.parameters(), *model.buffers(), *given) as bytes_:
        subject.first_token(inputs)
    return bytes_.peak


def machine(device: Any) -> str:
    """The name of a GPU, or of the CPU and how many cores this process may use."""
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_cpu()}, {cores} cores"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
