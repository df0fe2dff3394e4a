"""Whether this checkout can be released: archives, metadata, and lightkv installed on two Pythons.

    python benchmarks/release/check.py [--python PATH …] [--strict] [--keep FOLDER]

Copies the files that git knows and builds a wheel and a source archive of them, then a second wheel of
the source archive, which must have the files of the first. Every place must say the same version. The
wheel is installed with constraints.txt and its extras, and with the example plugin, in a fresh
environment of the oldest and of the newest supported Python that this machine has; every command runs
there outside the checkout on the bundled model, the playground is asked for its page, and the tests of
the source archive are collected. Pythons are looked for as `python3.N` on the path and among pyenv's
versions, unless `--python` names them; what is missing is told, and fails with `--strict` only.

pip takes packages from where it is configured to. Some minutes for each Python, most of them for torch
and for the start of each command. A table at the end says what was checked. The exit code is 1 if
anything failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import archives
import installed
import metadata
import pythons
from running import Failed, Rows, table

ROOT = Path(__file__).resolve().parents[2]
Found = TypeVar("Found")


def main() -> None:
    options = arguments()
    wanted = pythons.supported(ROOT)
    here = found(options.python)
    tried = here if options.python else pythons.chosen(wanted, here)
    rows = Rows()
    lacking = "not named by --python" if options.python else "not on this machine"
    for version in wanted:
        name = f"Python {pythons.text(version)}"
        if version not in here:
            rows.add("supported", name, f"{lacking}: NOT TRIED", ok=not options.strict)
        elif version not in tried:
            rows.add("supported", name, "here; not tried, because it is neither oldest nor newest")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if options.keep is None else options.keep.absolute()
        folder.mkdir(parents=True, exist_ok=options.keep is None)
        check(folder, tried, rows)
    print(f"\n{table(rows.rows)}\n")
    sys.exit(0 if rows.ok and tried else "not fit for a release")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", type=Path, nargs="+", help="try these and no others")
    parser.add_argument(
        "--strict", action="store_true", help="fail where a supported one is missing"
    )
    parser.add_argument("--keep", type=Path, help="work in this new folder and leave it")
    return parser.parse_args()


def found(named: list[Path] | None) -> dict[pythons.Version, Path]:
    """The Pythons that are named, or those that this machine has."""
    if named is None:
        return pythons.had_here(pythons.search_path())
    known = {}
    for path in named:
        version = pythons.version_of(path)
        if version is None:
            sys.exit(f"--python = {path}: this is no Python with the module venv that starts")
        known[version] = path.absolute()
    return known


def check(folder: Path, tried: dict[pythons.Version, Path], rows: Rows) -> None:
    """Everything, in a folder of its own; what needs a thing that failed is left out."""
    if told(rows, "sources", "checkout", lambda: archives.state(ROOT)) is None:
        return
    built = told(
        rows, "built", "wheel, source archive, plugin", lambda: archives.build(ROOT, folder)
    )
    if built is None:
        return
    for what, where, look in (
        ("versions", "five places", metadata.check_versions),
        ("wheel", "complete, nothing else", archives.check_wheel),
        ("source archive", "complete, nothing else", archives.check_sdist),
        ("second wheel", "of the source archive", archives.check_rebuilt),
        ("metadata", "wheel, source archive", metadata.check_metadata),
        ("README", "rendered", metadata.check_readme),
    ):
        told(rows, what, where, lambda look=look: look(built))
    for version, python in sorted(tried.items()):
        name = f"Python {pythons.text(version)}"
        work = folder / pythons.text(version)
        (work / "outside").mkdir(parents=True)
        use(python, built, work, name, rows)


def use(python: Path, built: archives.Built, work: Path, name: str, rows: Rows) -> None:
    """Install on one Python, and run everything in a folder outside the checkout."""
    outside = work / "outside"
    programs = told(rows, "environment", name, lambda: installed.install(python, built, work))
    if programs is None:
        return
    told(rows, "installed model", name, lambda: installed.check_checkpoint(programs, outside))
    told(rows, "commands, plugin", name, lambda: installed.check_commands(programs, outside))
    told(rows, "playground", name, lambda: installed.check_play(programs, outside))
    told(rows, "tests collected", name, lambda: installed.check_tests(programs, built))


def told(rows: Rows, what: str, where: str, look: Callable[[], Found]) -> Found | None:
    """What a check gives, with its line in the table; None where it failed."""
    try:
        given = look()
    except Failed as error:
        rows.fail(what, where, error)
        return None
    rows.add(what, where, given if isinstance(given, str) else "done")
    return given


if __name__ == "__main__":
    main()
