"""The wheel as a user has it: built, installed in a fresh environment, every command run.

    python benchmarks/wheel.py [--keep FOLDER]

Copies the files that git knows, builds a wheel of them, looks at what is in it and what is not,
installs it with constraints.txt and the extras `lab`, `play`, `plot`, `report` and `search` in a new
virtual environment, installs the example plugin there, and runs the commands outside the checkout on
the bundled model; `lightkv play` is asked for its page and interrupted. pip takes packages from where
it is configured to. Some minutes, most of them for torch and for the start of each command. The exit
code is 1 at the first thing that fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = "docs/examples/lightkv-outliers"
EXTRAS = "[lab,play,plot,report,search]"
PRESENT = (
    "lightkv/py.typed",
    "lightkv/demo/digits.npz",
    "lightkv/demo/checkpoint/config.json",
    "lightkv/demo/checkpoint/model.safetensors",
    "lightkv/demo/checkpoint/tokenizer.json",
    "lightkv/demo/checkpoint/processor_config.json",
    "lightkv/demo/checkpoint/README.md",
    "lightkv/lab/frame.html",
    "lightkv/lab/frame.js",
    "lightkv/lab/designs/page.html",
    "lightkv/lab/designs/page.js",
    "lightkv/lab/pictures/page.css",
    "lightkv/lab/pictures/page.js",
    "lightkv/lab/reporting/page.html",
    "lightkv/lab/reporting/page.css",
    "lightkv/lab/reporting/page.js",
    "lightkv/play/page.html",
    "lightkv/play/page.css",
    "lightkv/play/page.js",
)
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
from importlib.util import find_spec
from lightkv.demo.model import load
from lightkv.demo.scenes import held_out_scenes
import lightkv
model, processor = load()
held_out_scenes(1)[0][0].image.save("scene.png")
for name in ("training", "tests", "benchmarks"):
    assert find_spec(name) is None, name
assert "site-packages" in lightkv.__file__, lightkv.__file__
print(lightkv.__file__, sum(p.numel() for p in model.parameters()), "parameters")
"""
SCENE = ("--image", "scene.png", "--prompt", "how many digits there ?")
TUNE = ("--max-drop", "60%", "--range", "0.6:0.6", "--out", "tuned.yaml")
COMMANDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("--version",), "lightkv 0."),
    (("--help",), "strategies"),
    (("strategies",), "lightkv-outliers"),
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
    (("report", "r.sqlite", "--out", "r.html"), "wrote r.html"),
    (("search", "study.yaml", "--out", "f.sqlite", "--page", "f.html"), "trial"),
    (("vllm-args", "demo"), "--additional-config.lightkv.pipeline lightkv"),
    (("tune", "--model", "demo", "--data", "scenes:16", *TUNE), "Written: tuned.yaml"),
)
"""Arguments of `lightkv`, and what must be in the output."""
WRITTEN = ("sweep.svg", "s.html", "s.png", "r.sqlite", "r.html", "f.html", "tuned.yaml")


def say(what: str, start: float) -> None:
    print(f"{time.monotonic() - start:6.1f} s  {what}", flush=True)


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must work."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    variables = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=variables, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def copy_sources(target: Path) -> None:
    """The files that git knows or would add: no build folder of an earlier tree goes in."""
    listed = run("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # not one that was deleted just now
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


def check_contents(wheel: Path, sources: Path) -> str:
    """Exit unless the wheel holds the package, all of it and nothing else."""
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {str(path.relative_to(sources)) for path in (sources / "lightkv").rglob("*.py")}
    for name in sorted((wanted | set(PRESENT)) - names):
        sys.exit(f"missing in the wheel: {name}")
    for name in sorted(names):
        if name.split("/")[0] != "lightkv" and ".dist-info/" not in name:
            sys.exit(f"must not be in the wheel: {name}")
    return f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 2**20:.1f} MiB"


def install(folder: Path, start: float) -> Path:
    """Build and install in a new environment; its folder of programs."""
    sources, dist = folder / "src", folder / "dist"
    copy_sources(sources)
    pip = ("-m", "pip", "--disable-pip-version-check", "--quiet")
    environment = folder / "venv"
    run(sys.executable, "-m", "venv", environment, cwd=folder)
    python = environment / "bin" / "python"
    run(python, *pip, "wheel", "--no-deps", "-w", dist, sources, sources / PLUGIN, cwd=folder)
    (wheel,), (plugin,) = dist.glob("lightkv-*.whl"), dist.glob("lightkv_outliers-*.whl")
    say(check_contents(wheel, sources), start)
    pinned = (*pip, "install", "-c", sources / "constraints.txt")
    run(python, *pinned, f"lightkv{EXTRAS} @ {wheel.as_uri()}", cwd=folder)
    run(python, *pinned, plugin, cwd=folder)
    run(python, "-m", "pip", "check", cwd=folder)
    say("installed, with the example plugin", start)
    return python.parent


def play(programs: Path, work: Path) -> str:
    """Start the playground on a free port, ask for its page and for a scene, and interrupt it."""
    command = [str(programs / "lightkv"), "play", "--port", "0", "--json"]
    with subprocess.Popen(command, cwd=work, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        told = "".join(iter(server.stdout.readline, "}\n")) + "}"
        try:
            address = json.loads(told)["address"]
            for path, words in (("", "lightkv play"), ("scene?model=demo&number=0", "yellow")):
                with urllib.request.urlopen(address + path, timeout=60) as answer:
                    if words not in answer.read().decode():
                        sys.exit(f"no {words!r} in what lightkv play answers to /{path}")
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
    if server.returncode:
        sys.exit(f"lightkv play ended with {server.returncode}")
    return "lightkv play"


def use(programs: Path, work: Path, start: float) -> None:
    """Run everything in a folder outside the checkout."""
    work.mkdir()
    say(run(programs / "python", "-c", CHECKPOINT, cwd=work).strip(), start)
    (work / "grid.yaml").write_text(GRID)
    (work / "study.yaml").write_text(STUDY)
    for arguments, words in COMMANDS:
        out = run(programs / "lightkv", *arguments, cwd=work)
        if words not in out:
            sys.exit(f"no {words!r} in the output of lightkv {' '.join(arguments)}:\n{out}")
        say(f"lightkv {' '.join(arguments)}", start)
    say(play(programs, work), start)
    for name in WRITTEN:
        if not (work / name).stat().st_size:
            sys.exit(f"empty: {name}")
    say("all files were written", start)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=Path, help="work in this new folder and leave it")
    keep = parser.parse_args().keep
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if keep is None else keep.absolute()
        folder.mkdir(parents=True, exist_ok=keep is None)
        use(install(folder, start), folder / "work", start)


if __name__ == "__main__":
    main()
