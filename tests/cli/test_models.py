"""`lightkv models`, and the table of adapters in docs/models.md."""

import re
import sys
from pathlib import Path

import transformers

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import type_table

from lightkv.checkpoints.model_types import OUTCOMES, TypeRow, counts, summary
from lightkv.core.run.refusal import Standing

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def test_the_page_lists_the_adapters():
    assert PAGE.split("<!-- ADAPTERS -->")[1].strip() == type_table.adapters()


def test_every_page_has_the_count_of_the_list():
    """Types with a family, as `lightkv models` counts them, wherever their number is told."""
    told = PAGE.split("<!-- TYPES -->")[1].strip()
    counted = {
        outcome: int(found[1])
        if (found := re.search(rf"^- (\d+) {re.escape(words)}$", told, re.M))
        else 0
        for outcome, words in OUTCOMES.items()
    }
    release = re.search(r"types of transformers ([\d.]+), ", told)
    assert release is not None
    assert told.splitlines()[0] == summary(counted, release[1])
    series = ".".join(release[1].split(".")[:2])
    for page in (ROOT / "README.md", ROOT / "docs" / "index.md"):
        said = re.findall(
            rf"(\d+) types of transformers {re.escape(series)}\b", page.read_text("utf-8")
        )
        assert said == [str(counted["grid"] + counted["strip"])], page


def test_one_type(ok, ok_json):
    (row,) = ok_json("models", "--type", "llava", "--json")["types"]
    assert row == {
        "type": "llava",
        "class": "LlavaForConditionalGeneration",
        "outcome": "grid",
        "adapter": "llava",
        "geometry": "grid",
        "note": "",
        "remedy": "",
        "tried": True,
    }
    text = ok("models", "--type", "llava")
    assert re.search(r"llava +llava +grid", text)
    assert "1 work with true grids" in text


def test_a_refused_type_says_why_and_what_would_work(ok, ok_json):
    data = ok_json("models", "--type", "mllama", "--type", "qwen2_vl", "--json")
    assert [row["type"] for row in data["types"]] == ["mllama", "qwen2_vl"]
    assert data["counts"]["refused"] == data["counts"]["grid"] == 1
    assert data["transformers"] == transformers.__version__
    row = data["types"][0]
    assert (row["outcome"], row["adapter"], row["geometry"]) == ("refused", "refusals", None)
    text = " ".join(ok("models", "--type", "mllama").split())
    assert "cross-attention" in text
    assert "run it without lightkv" in text


def test_a_type_that_nobody_knows(fails):
    assert "Did you mean 'llava'?" in fails("models", "--type", "lava")


def test_what_was_never_run_says_so(ok, monkeypatch):
    row = TypeRow("new", "New", "auto", Standing("strip", "strips", guessed=True, tried=False))
    mute = TypeRow("mute", "Mute", None, None)
    monkeypatch.setattr("lightkv.checkpoints.model_types.type_rows", lambda names: [row, mute])
    text = ok("models")
    assert "strips; never run" in text
    assert "no adapter knows it" in text
    assert row.outcome == "auto"
    assert mute.outcome == "unknown"
    assert list(counts([row, mute])) == list(OUTCOMES)
