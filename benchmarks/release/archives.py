"""The wheel and the source archive: built of what git knows, and compared with it."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from running import Failed, run

PLUGIN = "docs/examples/lightkv-outliers"
TOOLS = ("build==1.6.1", "twine==7.0.0", "readme-renderer[md]==46.0")
"""What builds and looks at archives, in an environment of its own: lightkv needs none of it."""
DIST_INFO = "lightkv-{}.dist-info/"


@dataclass(frozen=True)
class Built:
    """The archives of a release, and the plugin that is tried with it.

    Attributes:
        sources: the copied checkout.
        known: the files that were copied.
        unpacked: the source archive as its user has it.
        tools: the Python of an environment with `TOOLS`.
    """

    sources: Path
    known: frozenset[str]
    wheel: Path
    sdist: Path
    unpacked: Path
    plugin: Path
    tools: Path

    @property
    def version(self) -> str:
        """As the wheel's name says it."""
        return self.wheel.name.split("-")[1]


def copy_sources(root: Path, target: Path) -> frozenset[str]:
    """Copy the files that git knows or would add: no build folder of an earlier tree goes in."""
    listed = run("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=root)
    names = [name for name in listed.split("\0") if name and (root / name).is_file()]
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, target / name)
    return frozenset(names)


def state(root: Path) -> str:
    """Which commit it is, and whether what is checked differs from it."""
    commit = run("git", "rev-parse", "--short", "HEAD", cwd=root).strip()
    changed = len(run("git", "status", "--porcelain", cwd=root).splitlines())
    if changed:
        return f"commit {commit} with {changed} changes that are not committed"
    return f"commit {commit}, nothing changed since"


def build(root: Path, folder: Path) -> Built:
    """Build both archives and the plugin's wheel of a checkout, and unpack the source archive."""
    sources = folder / "sources"
    known = copy_sources(root, sources)
    run(sys.executable, "-m", "venv", folder / "tools", cwd=folder)
    tools = folder / "tools" / "bin" / "python"
    run(tools, "-m", "pip", "--quiet", "install", *TOOLS, cwd=folder)
    wheel = _build(tools, "--wheel", sources, folder / "dist")
    sdist = _build(tools, "--sdist", sources, folder / "dist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    plugin = _build(tools, "--wheel", sources / PLUGIN, folder / "plugin")
    return Built(sources, known, wheel, sdist, unpacked, plugin, tools)


def _build(tools: Path, kind: str, sources: Path, into: Path) -> Path:
    before = set(into.glob("*"))
    run(tools, "-m", "build", kind, "--outdir", into, sources, cwd=into.parent)
    (made,) = set(into.glob("*")) - before
    return made


def check_wheel(built: Built) -> str:
    """The wheel holds what git knows of the package, pages and weights too, and nothing else.

    Raises:
        Failed: a file is missing or one too many.
    """
    names = set(_digests(built.wheel))
    package = {name for name in built.known if name.startswith("lightkv/")}
    _complain("missing in the wheel", package - names)
    more = {
        name for name in names - package if not name.startswith(DIST_INFO.format(built.version))
    }
    _complain("must not be in the wheel", more)
    return f"{built.wheel.name}: {len(names)} files, {_size(built.wheel)}"


def check_sdist(built: Built) -> str:
    """The source archive holds every file that git knows, but for those of the host and of CI.

    Raises:
        Failed: a file is missing or one too many.
    """
    files = (path for path in built.unpacked.rglob("*") if path.is_file())
    packed = {path.relative_to(built.unpacked).as_posix() for path in files}
    _complain("missing in the source archive", {n for n in built.known - packed if n[0] != "."})
    made = {
        n for n in packed if n in ("PKG-INFO", "setup.cfg") or n.startswith("lightkv.egg-info/")
    }
    more = packed - built.known - made
    _complain("must not be in the source archive", more)
    return f"{built.sdist.name}: {len(packed)} files, {_size(built.sdist)}"


def check_rebuilt(built: Built) -> str:
    """A wheel that is built of the source archive has the files of the first, to the byte.

    Raises:
        Failed: it has others.
    """
    again = _build(built.tools, "--wheel", built.unpacked, built.unpacked.parent / "dist")
    first, second = _digests(built.wheel), _digests(again)
    _complain("not the same in a wheel of the source archive", _changed(first, second))
    return f"{len(second)} files, the same as in the first wheel"


def _digests(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def _changed(first: dict[str, str], second: dict[str, str]) -> set[str]:
    return {name for name, _ in first.items() ^ second.items()}


def _complain(what: str, names: set[str]) -> None:
    if names:
        few = sorted(names)[:8]
        more = f" and {len(names) - len(few)} more" if len(names) > len(few) else ""
        raise Failed(f"{what}: {', '.join(few)}{more}")


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f} MiB"
