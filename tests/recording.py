"""A plugin for pytest: why tests were skipped, and which oracles hold for which family.

Every run ends with a table of the reasons. `--record FILE` writes what became of each test as JSON, and
the largest difference that it met; `benchmarks/compat.py` makes tables of that.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

ORACLES: dict[str, tuple[str, ...]] = {
    "identity": ("test_identity", "test_prompts_without_images"),
    "law": ("test_drop_equals_mask", "test_before_the_decoder_and_dropping_all"),
    "batch = single": (
        "test_batch_equals_single",
        "test_batch_equals_single_under_every_position_policy",
    ),
    "layout truth": (),
    "several images": (),
    "last position": ("test_the_last_position_is_untouched",),
    "positions": ("test_decoding_goes_on_at_the_same_positions", "test_positions_policies"),
    "cache truth": ("test_cache_truth", "test_generation_keeps_per_layer_lengths"),
    "cache site": (
        "test_cache_site_identity",
        "test_dropped_entries_are_masked_entries",
        "test_cache_site_batch_equals_single",
        "test_cache_site_second_turn",
        "test_cache_site_beams",
    ),
    "later turns": (
        "test_second_turn",
        "test_later_turns_of_unequal_rows",
        "test_second_turn_of_text",
        "test_second_turn_with_a_new_image",
        "test_a_cache_made_outside_goes_on_as_it_was",
    ),
    "foreign caches": (
        "test_a_compressed_cache_belongs_to_its_session",
        "test_a_copy_of_a_compressed_cache_is_refused",
        "test_a_cache_of_another_model_is_refused",
    ),
    "other caches": (
        "test_dynamic_cache_of_the_caller",
        "test_a_cropped_cache_goes_on_where_it_was_cut",
        "test_a_static_cache_is_refused",
    ),
    "quantised cache": ("test_quantised_cache",),
    "beams": ("test_beams_share_the_selection_of_their_prompt",),
    "assisted": ("test_assisted_decoding", "test_a_compressed_assistant"),
    "presets": ("test_every_preset_runs",),
    "training": ("test_gradients_flow", "test_gradient_checkpointing", "test_labels_are_refused"),
    "restored": ("test_restores_everything", "test_survives_an_error_inside_forward"),
}
"""Column of the table → tests of `AdapterSuite`, beside those of `oracles_of`. Other tests run, without
a column. "law" is drop = mask, or for decoders with recurrent layers what the cell says."""

TRUTHS = ("test_layout_truth", "test_the_painted", "test_squares", "test_a_picture_of_three")
"""How the names of tests begin that paint pixels and look which token moves."""

NOWHERE: dict[str, Any] = {"family": None, "file": None, "oracles": [], "remark": ""}
PACKAGES = ("transformers", "tokenizers", "huggingface-hub", "torch", "optimum-quanto", "peft")
BY_TEST = {name: column for column, names in ORACLES.items() for name in names}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lightkv")
    group.addoption("--record", metavar="FILE", help="write each result as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Recording(config), "lightkv-recording")


class Recording:
    """Collects on the controlling process what the tests of all processes tell."""

    def __init__(self, config: pytest.Config) -> None:
        self.config, self.began = config, time.time()
        self.tests: list[dict[str, Any]] = []
        self.skips: Counter[str] = Counter()
        self.files: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """With `--record`: the largest difference that the test compared within a tolerance."""
        if not self.config.getoption("record"):
            return (yield)
        import torch

        found = oracles_of(item)
        item.user_properties.append(("oracle", found))
        compare, seen = torch.testing.assert_close, []

        def assert_close(actual: Any, expected: Any, **options: Any) -> None:
            seen.append(difference(actual, expected))
            compare(actual, expected, **options)

        torch.testing.assert_close = assert_close
        try:
            return (yield)
        finally:
            torch.testing.assert_close = compare
            if seen:
                item.user_properties.append(("difference", max(seen)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self.skips[reason_of(report)] += 1
        if report.when == "call" or report.outcome != "passed":
            told = dict(report.user_properties)
            self.tests.append(
                {
                    "test": report.nodeid,
                    **(told.get("oracle") or NOWHERE),
                    "outcome": report.outcome,
                    "difference": told.get("difference"),
                    "seconds": round(report.duration, 2),
                    "reason": reason_of(report) if report.skipped else None,
                }
            )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that is skipped whole. With several processes each of them tells of it."""
        if not report.skipped or report.nodeid in self.files:
            return
        self.files.add(report.nodeid)
        self.skips[reason_of(report)] += 1
        family = Path(report.nodeid).stem.removeprefix("test_")
        self.tests.append(
            {
                "test": report.nodeid,
                "file": family,
                "family": family if "families" in Path(report.nodeid).parts else None,
                "oracles": list(ORACLES),
                "remark": "",
                "outcome": "skipped",
                "difference": None,
                "seconds": 0.0,
                "reason": reason_of(report),
            }
        )

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self.skips:
            return
        terminalreporter.section(f"{self.skips.total()} skipped, by reason")
        for reason, count in self.skips.most_common():
            terminalreporter.write_line(f"{count:5}  {reason}")

    def pytest_sessionfinish(self) -> None:
        target = self.config.getoption("record")
        if target is None or hasattr(self.config, "workerinput"):
            return
        found = {
            "versions": {name: found for name in PACKAGES if (found := installed(name))},
            "oracles": list(ORACLES),
            "seconds": round(time.time() - self.began, 1),
            "tests": self.tests,
        }
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_text(json.dumps(found, indent=1))


def function_of(item: pytest.Item) -> str:
    """Name of the test function, without its parameters."""
    return str(getattr(item, "originalname", None) or item.name)


def oracles_of(item: pytest.Item) -> dict[str, Any]:
    """Where a test stands in the table.

    Returns:
        family: its row; None where a test belongs to all rows of its file, or to none.
        file: name of the family's test file.
        oracles: its columns.
        remark: what its cells say beside the difference.
    """
    name, family = function_of(item), family_of(item)
    ids = str(item.callspec.id).split("-") if hasattr(item, "callspec") else []
    stem = item.path.stem.removeprefix("test_")
    if name.startswith(TRUTHS):
        # Files with the pictures of several families name them in their parameters.
        rooms = item.path.parent.parent
        named = next((one for one in ids if list(rooms.glob(f"*/test_{one}.py"))), stem)
        return {"family": family, "file": named, "oracles": ["layout truth"], "remark": ""}
    oracles = [BY_TEST[name]] if family and name in BY_TEST else []
    suite: Any = getattr(item, "cls", None)
    if family and name == "test_drop_equals_mask" and any(p.images > 1 for p in suite.batch):
        oracles += ["several images"] if "first" not in ids else []
    shorter = "law" in oracles and getattr(suite, "law", "") == "shorter"
    remark = "shorter" if shorter else ""
    return {"family": family, "file": stem, "oracles": oracles, "remark": remark}


def family_of(item: pytest.Item) -> str | None:
    """The family whose contract a test belongs to; None for other tests."""
    from lightkv.testing.adapters import AdapterBench

    owner = getattr(item, "cls", None)
    if owner is None or not issubclass(owner, AdapterBench):
        return None
    module, name = item.path.stem.removeprefix("test_"), owner.__name__.removeprefix("Test")
    plain = module.replace("_", "")
    return name if plain in name.lower() or name.lower() in plain else f"{module} {name}"


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why it was skipped. Sizes and names of one test are left out, so that equal reasons meet."""
    told = report.longrepr
    text = str(told[2] if isinstance(told, tuple) else told).removeprefix("Skipped: ")
    return re.sub(r"\s+", " ", text)


def difference(actual: Any, expected: Any) -> float:
    """Largest absolute difference between two numbers, tensors, or sequences or mappings of them."""
    import torch  # the process that hands out tests does without

    if isinstance(actual, Mapping):
        return max((difference(actual[key], expected[key]) for key in actual), default=0.0)
    if isinstance(actual, Sequence):
        pairs = zip(actual, expected, strict=False)
        return max((difference(*pair) for pair in pairs), default=0.0)
    one, other = (torch.as_tensor(value).detach().double() for value in (actual, expected))
    if one.shape != other.shape or not one.numel():
        return 0.0
    return float((one - other).abs().max())


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
