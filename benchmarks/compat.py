"""Which oracles hold for which family under which transformers: one table for each environment.

    python benchmarks/compat.py [--jobs 2] [--write docs/versions.md] ENVIRONMENT[:ROOM]…

An environment is a folder with `bin/python` and lightkv[compat]; `make compat` and `make compat-pinned`
make them. In each one tests/adapters and tests/families run whole, or the room behind the colon alone,
with `--record` (tests/recording.py says which tests are behind a column). All are run even if one fails;
the exit status is 1 if any did. With `--write` the tables replace what stands between the marks
`<!-- VERSIONS -->` of the file.

A number is the largest absolute difference that the tests of a column met, in float32 logits unless the
test says otherwise; "ok" stands where nothing is compared within a tolerance: bits are equal, or an
error was expected and came. A number in brackets is the reason, below the table, of tests that were
skipped; a dash stands where all were.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from report import fill

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "runs" / "compat"
TESTS = ("tests/adapters", "tests/families")
UNTESTED = (
    "no test: rows of clips show what the places of their tokens could break, the rest is the row of "
    "images; a layout that the caller gives has no pixels"
)


def run(
    environment: Path, rooms: Sequence[str], jobs: int, results: Path
) -> tuple[int, dict[str, Any] | None]:
    """Run the oracles in an environment: pytest's exit status, and what it recorded."""
    results.unlink(missing_ok=True)
    command = [
        *(str(environment.absolute() / "bin" / "python"), "-m", "pytest", *rooms),
        *("--record", str(results), "-n", str(jobs), "--dist", "worksteal"),
        *("-p", "no:cacheprovider"),
    ]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    status = subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode
    return status, json.loads(results.read_text()) if results.exists() else None


def cell(tests: list[dict[str, Any]], notes: dict[str, int]) -> str:
    """What became of the tests of one family and one oracle."""
    outcomes = [test["outcome"] for test in tests]
    if "failed" in outcomes:
        return f"**{outcomes.count('failed')} FAILED**"
    text = "–"
    if "passed" in outcomes:
        seen = [test["difference"] for test in tests if test["difference"] is not None]
        text = f"{max(seen):.0e}" if any(seen) else "ok"
    text = " ".join([text, *sorted({test["remark"] for test in tests} - {""})])
    reasons = {test["reason"] for test in tests if test["outcome"] == "skipped"}
    if not tests:
        reasons = {UNTESTED}
    numbers = sorted(notes.setdefault(reason, len(notes) + 1) for reason in sorted(reasons))
    return text + (f" ({', '.join(map(str, numbers))})" if numbers else "")


def rows_of(tests: list[dict[str, Any]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Family → column → its tests. Those of a file that are no family's are all its families'."""
    families: dict[str, dict[str, list[dict[str, Any]]]] = {}
    files = {test["family"]: test["file"] for test in tests if test["family"]}
    for test in tests:
        own = [test["family"]] if test["family"] else [f for f in files if files[f] == test["file"]]
        for family, oracle in product(own, test["oracles"]):
            families.setdefault(family, {}).setdefault(oracle, []).append(test)
    return families


def seconds_of(tests: list[dict[str, Any]]) -> Counter[str]:
    """Seconds that the tests of each family took, one after the other."""
    spent: Counter[str] = Counter()
    for test in tests:
        spent[test["family"]] += test["seconds"]
    return spent


def table(found: dict[str, Any]) -> str:
    """One environment in Markdown: versions, a row for each family, reasons, what else ran."""
    families = rows_of(found["tests"])
    notes: dict[str, int] = {}
    versions = dict(found["versions"])
    lines = [
        f"### transformers {versions.pop('transformers', 'unknown')}",
        "",
        "With " + ", ".join(f"{name} {number}" for name, number in versions.items()) + ".",
        "",
        f"| family | {' | '.join(found['oracles'])} | seconds |",
        "|---" * (2 + len(found["oracles"])) + "|",
    ]
    spent = seconds_of(found["tests"])
    for family, row in sorted(families.items(), key=lambda pair: pair[0].lower()):
        cells = (cell(row.get(oracle, []), notes) for oracle in found["oracles"])
        lines.append(f"| {family} | {' | '.join(cells)} | {spent[family]:.0f} |")
    lines += ["", *(f"{number}. {reason}" for reason, number in notes.items()), ""]
    tests = found["tests"]
    count = {kind: sum(t["outcome"] == kind for t in tests) for kind in ("passed", "failed")}
    seen = [t["difference"] for t in tests if t["difference"] is not None]
    minutes, seconds = divmod(round(found["seconds"]), 60)
    lines.append(
        f"{len(families)} families: {count['passed']} tests passed, {count['failed']} failed, "
        f"{len(tests) - sum(count.values())} skipped; largest difference {max(seen, default=0):.1e}; "
        f"{minutes} min {seconds} s."
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("environments", nargs="+", metavar="ENVIRONMENT[:ROOM]")
    parser.add_argument("--jobs", type=int, default=2, help="processes, each with one thread")
    parser.add_argument("--write", type=Path, help="Markdown file with two marks")
    options = parser.parse_args()
    tables, failed = [], []
    for given in options.environments:
        folder, _, room = given.partition(":")
        environment, rooms = Path(folder), [room] if room else TESTS
        results = RESULTS / f"{environment.name.removeprefix('.venv').strip('-') or 'main'}.json"
        status, found = run(environment, rooms, options.jobs, results)
        if found is None or status:
            failed.append(environment.name)
        if found is not None:
            tables.append(table(found))
            print(f"\n{tables[-1]}\n", flush=True)
    if options.write and tables:
        fill(options.write, "VERSIONS", "\n\n".join(tables))
    if failed:
        print(f"failed in: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
