"""Which Pythons lightkv supports, and which of them this machine has."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Iterable
from pathlib import Path

Version = tuple[int, int]
_NAME = re.compile(r"python3\.(\d+)")


def supported(root: Path) -> list[Version]:
    """The minor versions that the classifiers of pyproject.toml name, the oldest first."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    found = re.findall(r"Python :: 3\.(\d+)$", "\n".join(project["classifiers"]), re.M)
    return sorted((3, int(minor)) for minor in found)


def search_path() -> list[Path]:
    """The folders of programs, then those of pyenv's versions: its shims refuse what is not chosen."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return [*folders, *sorted(pyenv.glob("versions/*/bin"))]


def had_here(folders: Iterable[Path]) -> dict[Version, Path]:
    """`python3.N` → the first program of that name that starts."""
    found: dict[Version, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("python3.*")):
            if _NAME.fullmatch(path.name) and os.access(path, os.X_OK):
                version = version_of(path)
                if version is not None:
                    found.setdefault(version, path)
    return found


def version_of(program: Path) -> Version | None:
    """Its minor version; None where it does not start, or has no environments."""
    asked = [program, "-c", "import sys, venv; print(*sys.version_info[:2])"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=True)
        major, minor = done.stdout.split()
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
    return int(major), int(minor)


def chosen(wanted: list[Version], here: dict[Version, Path]) -> dict[Version, Path]:
    """The oldest and the newest of the supported ones that are here."""
    both = [version for version in wanted if version in here]
    return {version: here[version] for version in {*both[:1], *both[-1:]}}


def text(version: Version) -> str:
    """`3.11`."""
    return ".".join(map(str, version))
