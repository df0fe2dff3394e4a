"""lightkv as a user has it: installed in a fresh environment, every command run outside the checkout."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request
from pathlib import Path

from archives import Built
from running import Failed, run

EXTRAS = "[lab,play,plot,report,search]"
GRID = """\
task: {name: scenes, scenes: 2, kinds: [count]}
retention: [0.5]
axes:
  guidance:
    prompt: {}
    uniform: {scorer: uniform}
baseline: {guidance: prompt}
"""
STUDY = """\
task: {name: scenes, scenes: 8, kinds: [count]}
retention: [0.5]
space: {positions: {any: [keep, renumber]}}
trials: 2
"""
CHECKPOINT = """
from importlib.metadata import version
from importlib.util import find_spec
from lightkv.demo.model import load
from lightkv.demo.scenes import held_out_scenes
import lightkv
model, processor = load()
held_out_scenes(1)[0][0].image.save("scene.png")
for name in ("training", "tests", "benchmarks"):
    assert find_spec(name) is None, name
assert "site-packages" in lightkv.__file__, lightkv.__file__
assert lightkv.__version__ == version("lightkv"), lightkv.__version__
import torch, transformers
print(f"torch {torch.__version__}, transformers {transformers.__version__}")
"""
SCENE = ("--image", "scene.png", "--prompt", "how many digits there ?")
TUNE = ("--max-drop", "60%", "--range", "0.6:0.6", "--out", "tuned.yaml")
COMMANDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("--version",), "lightkv "),
    (("--help",), "strategies"),
    (("strategies",), "lightkv-outliers"),
    (("models", "--type", "llava"), "llava"),
    (("convert", "internvl2", "--help"), "InternVL2"),
    (("plan", "llava-v1.5-7b"), "planned 0.547"),
    (("plan", "demo", "--strategy", "outliers", "--trace"), "measured"),
    (("plan", "qwen2.5-vl-7b", "--image", "1280x960", "--gpu", "24GiB"), "requests at once"),
    (("plan", "llava-v1.5-7b", "--sweep", "--plot", "sweep.svg"), "Drawn: sweep.svg"),
    (("demo", "--samples", "5"), "vanilla"),
    (("run", "--model", "demo", *SCENE, "--compare"), "vanilla:"),
    (("run", "--model", "demo", *SCENE, "--strategy", "outliers", "--json"), '"answer"'),
    (("show", "--scene", "0", "--prompt", "list all digits", "--out", "s.html"), "wrote s.html"),
    (("show", *SCENE, "--out", "s.png"), "wrote s.png"),
    (("ablate", "grid.yaml", "--out", "r.sqlite"), "uniform"),
    (("ablate", "--table", "--out", "r.sqlite"), "uniform"),
    (("export", "r.sqlite", "--out", "r.csv"), ""),
    (("ablate", "grid.yaml", "--out", "again.sqlite"), "uniform"),
    (("compare", "r.sqlite", "again.sqlite"), "answered alike: 3 of 3"),
    (("report", "r.sqlite", "--out", "r.html"), "wrote r.html"),
    (("search", "study.yaml", "--out", "f.sqlite", "--page", "f.html"), "trial"),
    (("vllm-args", "demo"), "--additional-config.lightkv.pipeline lightkv"),
    (("tune", "--model", "demo", "--data", "scenes:16", *TUNE), "Written: tuned.yaml"),
)
"""Arguments of `lightkv`, and what must be in the output."""
WRITTEN = ("sweep.svg", "s.html", "s.png", "r.sqlite", "r.csv", "r.html", "f.html", "tuned.yaml")


def install(python: Path, built: Built, folder: Path) -> Path:
    """A new environment with the wheel, its extras and the plugin; its folder of programs."""
    run(python, "-m", "venv", folder / "venv", cwd=folder)
    programs = folder / "venv" / "bin"
    _pip(programs, built, f"lightkv{EXTRAS} @ {built.wheel.as_uri()}")
    _pip(programs, built, built.plugin)
    return programs


def _pip(programs: Path, built: Built, what: str | Path) -> None:
    """Install with the versions that the figures and tests were made with, and look for conflicts."""
    pip = programs / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"
    run(*pip, "install", "-c", built.sources / "constraints.txt", what, cwd=programs)
    run(*pip, "check", cwd=programs)


def check_checkpoint(programs: Path, work: Path) -> str:
    """The bundled model loads from the installed files; the versions that it runs with."""
    return run(programs / "python", "-c", CHECKPOINT, cwd=work).strip()


def check_commands(programs: Path, work: Path) -> str:
    """Every command answers and writes what it should.

    Raises:
        Failed: one does not, or there is one that is not tried.
    """
    (work / "grid.yaml").write_text(GRID)
    (work / "study.yaml").write_text(STUDY)
    for arguments, words in COMMANDS:
        out = run(programs / "lightkv", *arguments, cwd=work)
        if words not in out:
            raise Failed(f"no {words!r} in the output of lightkv {' '.join(arguments)}:\n{out}")
        print(f"{'':10}lightkv {' '.join(arguments)}", flush=True)
    empty = [name for name in WRITTEN if not (work / name).stat().st_size]
    if empty:
        raise Failed(f"nothing was written into {', '.join(empty)}")
    listed = "from lightkv.cli.lazy import COMMANDS; print(*COMMANDS)"
    known = set(run(programs / "python", "-c", listed, cwd=work).split())
    tried = {arguments[0] for arguments, _ in COMMANDS} | {"play"}
    if known - tried:
        raise Failed(f"commands that nothing tries: {', '.join(sorted(known - tried))}")
    return f"{len(COMMANDS)} calls of {len(known & tried) - 1} commands"


def check_play(programs: Path, work: Path) -> str:
    """Start the playground on a free port, ask for its page and for a scene, and interrupt it.

    Raises:
        Failed: it does not answer, or ends with an error.
    """
    command = [str(programs / "lightkv"), "play", "--port", "0", "--json"]
    with subprocess.Popen(command, cwd=work, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        told = "".join(iter(server.stdout.readline, "}\n")) + "}"
        try:
            address = json.loads(told)["address"]
            for path, words in (("", "lightkv play"), ("scene?model=demo&number=0", "yellow")):
                with urllib.request.urlopen(address + path, timeout=60) as answer:
                    if words not in answer.read().decode():
                        raise Failed(f"no {words!r} in what lightkv play answers to /{path}")
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
    if server.returncode:
        raise Failed(f"lightkv play ended with {server.returncode}")
    return "its page and a scene came, and it ended when it was interrupted"


def check_tests(programs: Path, built: Built) -> str:
    """The tests of the source archive are found and import, with the extra `dev`.

    Raises:
        Failed: one does not.
    """
    _pip(programs, built, f"lightkv[dev] @ {built.wheel.as_uri()}")
    collect = "-m", "pytest", "--collect-only", "-p", "no:cacheprovider"
    out = run(programs / "python", *collect, cwd=built.unpacked).strip()
    return out.splitlines()[-1]
