"""Fill a folder with the wheels that `gpu_check.sh` installs on a machine without an index.

    python benchmarks/gpu_wheels.py [--folder .gpu-wheels] [--python 3.12] [--machine x86_64]
        [--has numpy pillow]

Everything that `lightkv[testing]` needs at the versions of `constraints.txt`, transformers included, and
what builds lightkv itself; never torch, which must fit the machine's driver and is taken as it is found.
Compiled wheels are made for one version of Python: name that of the machine's torch. `--has` names
packages that the machine has and need not be carried. The folder must travel with the tracked files in
64 MiB; the size of both is printed, and the exit status is 1 where they do not fit.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 64 * 2**20
"""Bytes that a lent machine takes, the working tree included."""
NEVER = frozenset({"torch", "hf-xet"})
"""torch is the machine's own; hf-xet only downloads from a hub, which is out of reach there."""
BESIDES = ("pytest-xdist", "setuptools>=77")
"""Tests in several processes; what builds lightkv."""
GLIBC = ("_2_5", "1", "_2_12", "2010", "_2_17", "2014", "_2_24", "_2_27", "_2_28")
"""The manylinux tags that are taken: pip compares them literally."""


def wanted(has: set[str]) -> list[str]:
    """Requirements of `lightkv[testing]` and what comes besides, without torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["testing"], *BESIDES]
    return [line for line in listed if package(line) not in NEVER | has]


def package(text: str) -> str:
    """Normalised name of a requirement or of a wheel."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+?(?=[^\w.-]|-\d|$)", text)[0]).lower()  # type: ignore[index]


def download(folder: Path, python: str, machine: str, has: set[str]) -> list[Path]:
    """Put the wheels into `folder`, in place of those that are there."""
    platforms = [f"--platform=manylinux{tag}_{machine}" for tag in GLIBC]
    options = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
        fixed = ["-c", str(ROOT / "constraints.txt"), "-d", fresh]
        subprocess.run([*pip, *fixed, *options, *platforms, *wanted(has)], check=True)
        for old in folder.glob("*.whl"):
            old.unlink()
        for wheel in Path(fresh).glob("*.whl"):
            if package(wheel.name) not in NEVER | has:
                wheel.rename(folder / wheel.name)
    return sorted(folder.glob("*.whl"))


def tracked_bytes() -> int:
    """Bytes of the working tree that travels beside the wheels; 0 outside a checkout."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    files = [ROOT / name for name in found.stdout.split("\0") if name]
    return sum(file.stat().st_size for file in files if file.is_file())


def main() -> int:
    """Command line; 1 if what was filled is too large to be carried."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / ".gpu-wheels")
    parser.add_argument("--python", default="3.12", help="version of the machine's Python")
    parser.add_argument("--machine", default="x86_64", help="as `uname -m` says there")
    parser.add_argument("--has", nargs="*", default=[], help="packages that are there already")
    options = parser.parse_args()
    has = {package(name) for name in options.has}
    wheels = download(options.folder, options.python, options.machine, has)
    own, tree = sum(wheel.stat().st_size for wheel in wheels), tracked_bytes()
    print(
        f"{len(wheels)} wheels for Python {options.python} in {options.folder}: {own / 2**20:.1f} MiB; "
        f"with the tracked files {(own + tree) / 2**20:.1f} of {LIMIT // 2**20} MiB"
    )
    if own + tree > LIMIT:
        print("too large to be carried; leave out what the machine has: --has numpy pillow")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
