"""What was tested of each model family: the table in docs/models.md, from the tests' own results.

    python benchmarks/model_table.py [--record runs/compat/main.json] [--write docs/models.md]

Runs tests/adapters and tests/families, or reads what became of them in a run of `benchmarks/compat.py`
with the same releases, tallies for each contract (a test class made of
`lightkv.testing.AdapterSuite`) the outcomes of the tests behind each column, and measures the
differences with `benchmarks/oracles.py`.
"yes" means that every test of the column passed; a number points to the reason why transformers or
the family does not allow it; "FAILED" speaks for itself. With `--write` the table replaces what stands
between the marks `<!-- MODELS -->` of the file.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch

MARK = "<!-- MODELS -->"
COLUMNS: dict[str, tuple[str, ...]] = {
    "several images": ("test_drop_equals_mask",),
    "padding": ("test_batch_equals_single",),
    "2nd turn, text": ("test_second_turn_of_text",),
    "2nd turn, image": ("test_second_turn_with_a_new_image",),
    "quantised cache": ("test_quantised_cache",),
    "offloaded cache": ("test_offloaded_cache",),
    "beams": ("test_beams_share_the_selection_of_their_prompt",),
    "sampling": ("test_sampling_repeats_under_a_seed",),
    "assisted": ("test_assisted_decoding",),
    "streaming": ("test_streaming",),
    "training": ("test_gradients_flow", "test_gradient_checkpointing"),
}
"""Column → tests of the contract."""
FILES = {"TP × 2": "test_tensor_parallel", "device_map": "test_placement"}
"""Column → file whose tests have the family as parameter."""
TRUTH = re.compile(r"layout_truth|painted_patch|painted_cell")
REAL = re.compile(r"real_processor")
ANY = re.compile("")
CANNOT = re.compile("cannot")
"""Tests which show that transformers itself fails: they pass, and the feature is missing."""
BEYOND = "cannot: the plain model fails in transformers too (asserted in tests/adapters)"
VIDEO = re.compile(r"video|film|frames")


class Outcomes:
    """A pytest plugin that remembers what became of each test.

    Attributes:
        of: (file stem, class or "", test name) → (parameters, outcome, reason of a skip).
    """

    def __init__(self) -> None:
        self.of: dict[tuple[str, str, str], list[tuple[str, str, str]]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keep the call, or the set-up where it skipped or failed."""
        if report.when != "call" and (report.when != "setup" or report.passed):
            return
        reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
        self.note(report.nodeid, report.outcome, reason.removeprefix("Skipped: "))

    def note(self, nodeid: str, outcome: str, reason: str) -> None:
        """One test."""
        path, _, rest = nodeid.partition("::")
        kind, _, name = rest.rpartition("::")
        name, _, parameters = name.partition("[")
        self.of[Path(path).stem, kind, name].append((parameters.rstrip("]"), outcome, reason))

    def read(self, record: Path) -> None:
        """Every test of a recorded run."""
        for test in json.loads(record.read_text())["tests"]:
            self.note(test["test"], test["outcome"], test["reason"] or "")

    def cell(self, found: list[tuple[str, str, str]], notes: dict[str, int]) -> str:
        """ "yes", "FAILED", the number of a note, or a dash where nothing was tested."""
        outcomes = {outcome for _, outcome, _ in found}
        if "failed" in outcomes:
            return "FAILED"
        if "passed" in outcomes:
            return "yes"
        reasons = {reason for _, _, reason in found}
        return ", ".join(str(notes.setdefault(r, len(notes) + 1)) for r in sorted(reasons)) or "–"

    def matching(self, stem: str, pattern: re.Pattern[str]) -> list[tuple[str, str, str]]:
        """Outcomes of the tests of a file, outside and inside its classes, by name."""
        return [
            one
            for (file, _, name), found in self.of.items()
            if file == stem and pattern.search(name)
            for one in found
        ]


def row(
    stem: str, name: str, suite: Any, outcomes: Outcomes, notes: dict[str, int]
) -> dict[str, str]:
    """One line of the table."""
    family = stem.removeprefix("test_")
    figures = [
        oracles.worst(measure, suite)
        for measure in (oracles.identity, oracles.drop_and_mask, oracles.batch_and_single)
    ]
    print(f"  {family} {name}: {figures}", flush=True)
    real = [
        *_of_family(outcomes, "test_processors", stem, name),
        *_of_family(outcomes, "test_truth_of_cells", stem, name, REAL),
    ]
    truths = real + _of_family(outcomes, "test_truth_of_cells", stem, name)
    cells = {
        "contract": f"{family} {name.removeprefix('Test')}",
        "class": oracles.kind_of(suite.make_model()),
        "identity": f"{figures[0]:.1g}",
        "drop ≡ mask": f"{figures[1]:.1e}",
        "batch ≡ single": f"{figures[2]:.1e}",
        "layout truth": outcomes.cell(outcomes.matching(stem, TRUTH) + truths, notes),
        "real processor": outcomes.cell(real, notes),
        "video": outcomes.cell(outcomes.matching(stem, VIDEO), notes),
    }
    for column, tests in COLUMNS.items():
        found = [one for test in tests for one in outcomes.of.get((stem, name, test), [])]
        cells[column] = outcomes.cell(found, notes)
    for column, file in FILES.items():
        if _of_family(outcomes, file, stem, name, CANNOT):
            cells[column] = outcomes.cell([("", "skipped", BEYOND)], notes)
            continue
        cells[column] = outcomes.cell(_of_family(outcomes, file, stem, name), notes)
    return cells


def _of_family(
    outcomes: Outcomes,
    file: str,
    stem: str,
    name: str,
    pattern: re.Pattern[str] = ANY,
) -> list[tuple[str, str, str]]:
    """Outcomes of the tests of another file whose parameter names the contract or its family."""
    own = {_plain(stem.removeprefix("test_")), _plain(name.removeprefix("Test"))}
    if _plain(name) in ("testimages", "testvideos", "testclips"):
        own = {_plain(stem.removeprefix("test_"))}
    return [
        one
        for (found, _, test), all_of in outcomes.of.items()
        if found == file and pattern.search(test)
        for one in all_of
        if own
        & {
            _plain(part)
            for part in (*one[0].split("-"), test.removeprefix("test_layout_truth_of_"))
        }
    ]


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def table(rows: list[dict[str, str]], notes: dict[str, int]) -> str:
    """Markdown."""
    heads = list(rows[0])
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cells.values()) + " |" for cells in rows]
    lines += [""] + [f"{number}. {reason}" for reason, number in notes.items()]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--record", type=Path, help="what `pytest --record` wrote of both rooms")
    parser.add_argument("--write", type=Path, help="Markdown file to put the table into")
    options = parser.parse_args()
    outcomes = Outcomes()
    if options.record:
        outcomes.read(options.record)
    else:
        options_of_pytest = ["-q", "--no-header", "-p", "no:cacheprovider"]
        pytest.main([*map(str, oracles.ROOMS), *options_of_pytest], plugins=[outcomes])
    torch.set_num_threads(1)
    notes: dict[str, int] = {}
    rows = [
        row(stem, f"Test{name}", suite, outcomes, notes)
        for stem, name, suite in oracles.named_suites("")
        if type(suite).__name__.startswith("Test")
    ]
    text = table(rows, notes)
    print(text)
    if options.write:
        before, _, after = options.write.read_text().split(MARK)
        options.write.write_text(f"{before}{MARK}\n{text}\n{MARK}{after}")


if __name__ == "__main__":
    main()
