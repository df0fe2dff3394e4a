"""The checks and figures that want a GPU, part by part within a time limit; `gpu_check.sh` starts it.

Parts, by worth:

    tests         tests/gpu without the contract: stages as on the host, no stage of any preset waits
                  for the device, generation in low precision
    contract      the contract of six families on the device, in float32 and in bfloat16
    stages        times of one stage at 576 to 65,536 tokens beside the floors of the card
    llava-next    TTFT, decode step and peak memory of LLaVA-NeXT-7B, batch 1 and 8
    qwen          the same of Qwen2.5-VL-7B
    flash         LLaVA-NeXT-7B with FlashAttention 2, where it is installed

Each part is a process of its own with a limit of its own, and the whole has one too: what is not done
then is said to be cut or not run. `gpu.md` and `gpu.json` are written anew after each part, and a part
that is cut leaves what it had. With `--toy` the same parts run at toy sizes on the host; what needs
CUDA is said.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests" / "gpu"
TOY_PATIENCE = 6
"""A toy run is for machines that do other work meanwhile: its parts may take longer."""
SPARE = 5.0
"""Seconds of the whole that are kept for ending a part and writing the files."""
PASSED, FAILED, CUT, NOT_RUN, LACKS = "passed", "FAILED", "CUT", "NOT RUN", "not here"


@dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
        seconds: its limit.
        command: its arguments, for a toy run or not.
        tests: whether it is pytest; otherwise a script that takes `--json`.
        lacks: what it needs and cannot find here; empty if nothing.
    """

    name: str
    title: str
    seconds: float
    command: Callable[[bool], list[str]]
    tests: bool = False
    lacks: Callable[[bool], str] = lambda toy: ""


def pytest_of(*files: str) -> Callable[[bool], list[str]]:
    """Arguments for files of tests/gpu; on a large machine several processes share the device."""

    def command(toy: bool) -> list[str]:
        words = ["-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "gpu_results"]
        if not toy and importlib.util.find_spec("xdist") and (os.cpu_count() or 1) >= 8:
            words += ["-p", "xdist.plugin", "-n", "6"]
        if toy:
            words += ["-k", TOY]
        return [*words, *(str(TESTS / file) for file in files)]

    return command


TOY = "notice or (waits and lightkv) or precision or (drop_equals_mask and sdpa and all)"
"""The tests of a toy run: some of each file."""


def models(name: str, attention: str, seconds: float, batches: str) -> Callable[[bool], list[str]]:
    """Arguments of `gpu.py`. Rounds stop in time for the last one to end within the part's limit."""
    words = f"--part {name} --attention {attention} --batches {batches} --seconds {0.6 * seconds}"

    def command(toy: bool) -> list[str]:
        small = "--device cpu --small --rounds 1 --decode 1 --batches 1"
        return [
            str(HERE / "gpu.py"),
            *f"{words} {small if toy else '--rounds 3 --decode 16'}".split(),
        ]

    return command


def stages(toy: bool) -> list[str]:
    """Arguments of `gpu_stages.py`."""
    small = ["--device", "cpu", "--small", "--rounds", "1", "--sizes", "576"]
    return [str(HERE / "gpu_stages.py"), *(small if toy else ())]


def no_flash(toy: bool) -> str:
    """What FlashAttention 2 lacks here."""
    if toy:
        return "needs CUDA"
    return "" if importlib.util.find_spec("flash_attn") else "flash_attn is not installed"


PARTS = (
    Part("tests", "tests/gpu", 50, pytest_of("test_gpu.py", "test_waits.py"), tests=True),
    Part("contract", "contract", 95, pytest_of("test_contract.py"), tests=True),
    Part("stages", "One stage beside the floors", 40, stages),
    Part("llava-next", "LLaVA-NeXT-7B", 75, models("7b", "sdpa", 75, "1 8")),
    Part("qwen", "Qwen2.5-VL-7B", 75, models("qwen", "sdpa", 75, "1 8")),
    Part(
        "flash",
        "LLaVA-NeXT-7B, FlashAttention 2",
        45,
        models("7b", "flash_attention_2", 45, "1 8"),
        lacks=no_flash,
    ),
)


def machine() -> dict[str, str]:
    """Card, driver, versions; nothing here makes a CUDA context."""
    found = {"python": platform.python_version(), "processor": f"{os.cpu_count()} cores"}
    for name in ("torch", "transformers", "tokenizers", "triton", "flash-attn"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        found["card, driver, memory"] = answer.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        found["card, driver, memory"] = "nvidia-smi does not answer"
    return found


def run(part: Part, toy: bool, limit: float, folder: Path) -> dict[str, Any]:
    """One part: its status, seconds, figures or outcomes, and the end of its output if it failed."""
    figures, log = folder / f"{part.name}.json", folder / f"{part.name}.log"
    command = [sys.executable, *part.command(toy)]
    if not part.tests:
        command += ["--json", str(figures)]
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=HERE.parent,
            env=environment(toy, figures),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = PASSED if process.wait(timeout=limit) == 0 else FAILED
        except subprocess.TimeoutExpired:
            status = CUT
        finally:
            end(process)
    found: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - started, 1)}
    found["found"] = outcomes(figures) if part.tests else figures_of(figures)
    if status != PASSED:
        found["output"] = log.read_text(encoding="utf-8", errors="replace")[-4000:]
    return found


def environment(toy: bool, results: Path) -> dict[str, str]:
    """Of a part: no plugins but its own, CUDA hidden from a toy run, contract in toy size."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    paths = [str(HERE), kept.get("PYTHONPATH", "")]
    kept |= {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "GPU_RESULTS": str(results),
        "TOKENIZERS_PARALLELISM": "false",
    }
    if toy:
        kept |= {"CUDA_VISIBLE_DEVICES": "", "LIGHTKV_CONTRACT_DEVICE": "cpu"}
        kept["LIGHTKV_CONTRACT_FAMILIES"] = "llava"
    return kept


def end(process: subprocess.Popen[bytes]) -> None:
    """End a part and all that it started: its own process group, so nothing else."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=2)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def outcomes(lines: Path) -> dict[str, Any]:
    """Counts and largest differences by class or file, and what failed, from `gpu_results.py`."""
    groups: dict[str, dict[str, Any]] = {}
    failures, skips = [], Counter[str]()
    for line in lines.read_text(encoding="utf-8").splitlines() if lines.exists() else ():
        test = json.loads(line)
        file, _, rest = test["test"].rpartition("/")[2].partition("::")
        group = groups.setdefault(rest.partition("::")[0] if "::" in rest else file, {})
        group[test["outcome"]] = group.get(test["outcome"], 0) + 1
        if "difference" in test:
            group["difference"] = max(group.get("difference", 0.0), test["difference"])
        if test["outcome"] == "failed":
            failures.append({"test": test["test"], "message": test["message"]})
        elif test["outcome"] == "skipped":
            skips[test["message"].removeprefix("Skipped: ")] += 1
    return {"groups": groups, "failures": failures, "skips": dict(skips)}


def figures_of(file: Path) -> dict[str, Any]:
    """What a script had measured when it ended."""
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def markdown(found: dict[str, Any]) -> str:
    """The report."""
    lines = ["# GPU check" + (", toy sizes on the host" if found["toy"] else ""), ""]
    lines += [", ".join(f"{name} {value}" for name, value in found["machine"].items()) + ".", ""]
    lines += ["| part | status | seconds | limit |", "|---|---|---|---|"]
    for name, part in found["parts"].items():
        status = f"{part['status']}: {part['why']}" if "why" in part else part["status"]
        lines.append(f"| {name} | {status} | {part['seconds']} | {part['limit']:.0f} |")
    for name, part in found["parts"].items():
        inside = part.get("found") or {}
        if inside or "output" in part:
            lines += ["", f"## {next(each.title for each in PARTS if each.name == name)}", ""]
        lines += tests_table(inside) if "groups" in inside else [inside.get("table", "")]
        if "output" in part:
            lines += ["", "```text", part["output"][-1500:].replace("```", "'''").strip(), "```"]
    return "\n".join(lines).strip() + "\n"


def tests_table(found: dict[str, Any]) -> list[str]:
    """Rows of a part that is pytest."""
    lines = ["| tests | passed | failed | skipped | largest difference |", "|---|---|---|---|---|"]
    for name, group in found["groups"].items():
        counts = " | ".join(str(group.get(kind, 0)) for kind in ("passed", "failed", "skipped"))
        apart = f"{group['difference']:.2g}" if "difference" in group else ""
        lines.append(f"| {name} | {counts} | {apart} |")
    for reason, count in found["skips"].items():
        lines += ["", f"{count} skipped: {reason}"]
    for failure in found["failures"][:20]:
        lines += ["", f"- `{failure['test']}`: {failure['message'][:200]}".replace("\n", " ")]
    return lines


def write(folder: Path, found: dict[str, Any]) -> None:
    """Both files, each in one step, so that whoever is cut off leaves no half of one."""
    texts = {"gpu.json": json.dumps(found, indent=1) + "\n", "gpu.md": markdown(found)}
    for name, text in texts.items():
        (folder / f".{name}").write_text(text, encoding="utf-8")
        (folder / f".{name}").replace(folder / name)


def main(arguments: list[str] | None = None) -> int:
    """Command line; 1 if a part failed, was cut or had no time left."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE.parent / "runs" / "gpu")
    parser.add_argument("--seconds", type=float, default=420, help="limit of the whole")
    parser.add_argument("--started", type=float, default=time.time(), help="when the whole began")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--toy", action="store_true", help="toy sizes on the host")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": machine(), "toy": options.toy, "parts": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for part in [each for each in PARTS if each.name in options.only]:
            left = options.started + options.seconds - SPARE - time.time()
            limit = min(part.seconds * (TOY_PATIENCE if options.toy else 1), left)
            result: dict[str, Any] = {"status": LACKS, "seconds": 0.0}
            if why := part.lacks(options.toy):
                result["why"] = why
            elif left < SPARE:
                result |= {"status": NOT_RUN, "why": "no time was left"}
            else:
                result = run(part, options.toy, limit, Path(scratch))
            found["parts"][part.name] = {**result, "limit": round(limit)}
            found["seconds"] = round(time.time() - options.started, 1)
            write(options.out, found)
            print(f"{part.name}: {result['status']} in {result['seconds']} s", flush=True)
    print(f"{options.out / 'gpu.md'}: {found['seconds']} s in all")
    bad = {FAILED, CUT, NOT_RUN}
    return int(any(part["status"] in bad for part in found["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
