"""`gpu_check.sh` at toy sizes on the host, and what it makes of parts that fail or run out of time."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_check.sh"


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_check

    return gpu_check


@pytest.fixture
def with_parts(gpu_check, monkeypatch, tmp_path):
    """Runs made-up parts (name → seconds, program) and gives the exit status and both files."""

    def check(parts, *arguments, **more):
        made = [
            gpu_check.Part(name, name, seconds, lambda toy, text=text: ["-c", text], **more)
            for name, (seconds, text) in parts.items()
        ]
        monkeypatch.setattr(gpu_check, "PARTS", tuple(made))
        status = gpu_check.main(["--out", str(tmp_path), "--toy", *arguments])
        return status, json.loads((tmp_path / "gpu.json").read_text()), tmp_path / "gpu.md"

    return check


def test_the_script_at_toy_size(tmp_path):
    only = ["tests", "contract", "flash"]
    words = ["--toy", "--wheels", "none", "--seconds", "1500", "--out", tmp_path, "--only", *only]
    done = subprocess.run(
        [SCRIPT, *words],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    parts = {name: part["found"] for name, part in found["parts"].items() if "found" in part}
    assert list(found["parts"]) == only
    assert found["parts"]["flash"]["why"] == "needs CUDA"
    assert parts["tests"]["groups"]["test_waits.py"]["passed"] == 5
    assert list(parts["tests"]["skips"]) == ["needs a CUDA device"]
    for name, limit in (("TestLlava_float32", 1e-5), ("TestLlava_bfloat16", 2**-6)):
        group = parts["contract"]["groups"][name]
        assert group["passed"] == 2
        assert 0 < group["difference"] <= limit
    assert "| flash | not here: needs CUDA |" in (tmp_path / "gpu.md").read_text()


def test_the_figures_at_toy_size(gpu_check, monkeypatch, tmp_path):
    """The scripts of two parts with the arguments of their parts, in this process: each process of its
    own would import everything once more."""

    def here(part, toy, limit, folder):
        script, *words = part.command(toy)
        figures = folder / f"{part.name}.json"
        status = __import__(Path(script).stem).main([*words, "--json", str(figures)])
        said = gpu_check.FAILED if status else gpu_check.PASSED
        return {"status": said, "seconds": 0.0, "found": gpu_check.figures_of(figures)}

    monkeypatch.setattr(gpu_check, "run", here)
    only = ["stages", "qwen"]
    words = ["--toy", "--seconds", "1500", "--out", str(tmp_path), "--only", *only]
    assert gpu_check.main(words) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found["parts"]) == only
    parts = {name: part["found"] for name, part in found["parts"].items()}
    row = parts["stages"]["sizes"][0]
    assert row["bytes_floor_seconds"] == pytest.approx(
        row["bytes"] / parts["stages"]["floors"]["bfloat16"]["bytes_per_second"]
    )
    models = parts["qwen"]["parts"]["qwen, sdpa, small"]["1"]
    assert list(models) == ["vanilla", "lightkv", "lightkv-plus", "fastv"]
    assert models["fastv"]["retention"] == pytest.approx(0.35, abs=0.01)
    assert parts["stages"]["table"] in (tmp_path / "gpu.md").read_text()


def test_a_part_that_fails_stops_no_other(with_parts):
    status, found, page = with_parts(
        {"bad": (20, "print('so it went'); raise SystemExit(3)"), "good": (20, "pass")}
    )
    assert status == 1
    assert found["parts"]["bad"]["status"] == "FAILED"
    assert found["parts"]["good"]["status"] == "passed"
    assert "so it went" in page.read_text()


def gone(process):
    """Whether a process ends within five seconds; one that nobody waits for has ended too."""
    state = Path(f"/proc/{process}/stat")
    for _ in range(50):
        try:
            if state.read_text().split()[2] in "ZX":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False


def test_a_part_that_is_cut_leaves_what_it_had_and_no_process(with_parts, tmp_path):
    child = tmp_path / "child"
    text = f"""
import json, pathlib, subprocess, sys, time
pathlib.Path(sys.argv[sys.argv.index("--json") + 1]).write_text(json.dumps({{"table": "half"}}))
process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path({str(child)!r}).write_text(str(process.pid))
time.sleep(60)
"""
    status, found, page = with_parts({"slow": (1.5, text)})
    assert status == 1
    assert found["parts"]["slow"]["status"] == "CUT"
    assert found["parts"]["slow"]["found"] == {"table": "half"}
    assert "half" in page.read_text()
    assert gone(int(child.read_text()))


def test_nothing_begins_when_the_whole_is_out_of_time(with_parts):
    status, found, _ = with_parts({"late": (20, "pass")}, "--seconds", "6")
    assert status == 1
    assert found["parts"]["late"]["status"] == "NOT RUN"


def test_limits_of_the_parts_fit_the_whole(gpu_check):
    """With 20 seconds for the installation."""
    assert sum(part.seconds for part in gpu_check.PARTS) + 20 <= 420


def test_a_test_that_fails_is_named(gpu_check, tmp_path):
    lines = [
        {"test": "tests/gpu/test_a.py::TestX::test_b[1]", "outcome": "passed", "difference": 0.5},
        {"test": "tests/gpu/test_a.py::TestX::test_c", "outcome": "failed", "message": "1 != 2"},
        {"test": "tests/gpu/test_a.py::test_d", "outcome": "skipped", "message": "Skipped: no"},
    ]
    file = tmp_path / "lines"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = gpu_check.outcomes(file)
    assert found["groups"] == {
        "TestX": {"passed": 1, "failed": 1, "difference": 0.5},
        "test_a.py": {"skipped": 1},
    }
    assert found["failures"] == [{"test": lines[1]["test"], "message": "1 != 2"}]
    assert found["skips"] == {"no": 1}


def test_a_python_without_torch_is_told_so(tmp_path):
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    done = subprocess.run(
        [SCRIPT],
        env={**os.environ, "PYTHON": str(bare)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "PYTHON=" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_what_does_run():
    done = subprocess.run(
        [SCRIPT, "--wheels=none"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--toy" in done.stderr


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("torch>=2.6", "torch"),
        ("pytest-xdist", "pytest-xdist"),
        ("hf_xet-1.8.0-cp38-abi3-manylinux2014_x86_64.whl", "hf-xet"),
        ("pydantic_core-2.50.4-cp312-cp312-x.whl", "pydantic-core"),
        ("h11-0.16.0-py3-none-any.whl", "h11"),
    ],
)
def test_names_of_packages(gpu_check, text, name):
    import gpu_wheels

    assert gpu_wheels.package(text) == name


def test_the_wheels_are_what_lightkv_needs_but_torch(gpu_check):
    import gpu_wheels

    found = {gpu_wheels.package(line) for line in gpu_wheels.wanted({"numpy"})}
    assert {"transformers", "pydantic", "pytest", "hypothesis", "setuptools"} <= found
    assert not {"torch", "numpy"} & found
