"""Every multimodal type of the installed transformers has an answer, and docs/models.md tells it."""

import sys
from pathlib import Path

import pytest
import transformers

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import type_table

from lightkv.adapters.hf.contact import multimodal_types
from lightkv.checkpoints.model_types import counts, type_rows

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows():
    return type_rows()


def test_no_type_is_unaccounted_for(rows):
    assert [row.model_type for row in rows] == sorted(multimodal_types())
    assert [row.model_type for row in rows if row.outcome == "unknown"] == []
    assert sum(counts(rows).values()) == len(rows)
    for row in rows:
        if row.outcome == "refused":
            assert row.standing.note, row.model_type
            assert row.standing.remedy, row.model_type


def test_the_page_lists_the_types(rows):
    if f"types of transformers {transformers.__version__}, " not in PAGE:
        pytest.skip("the page tells the types of another release")
    assert PAGE.split("<!-- TYPES -->")[1].strip() == type_table.types(rows)
