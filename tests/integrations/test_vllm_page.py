"""The tables of docs/vllm.md, made anew: what an engine runs, refuses and holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lightkv.cli import app
from lightkv.core.errors import ConfigError
from lightkv.core.plugins import registry
from lightkv.integrations.vllm.families import FAMILIES
from lightkv.integrations.vllm.plan import ServingPlan, check_pipeline
from lightkv.integrations.vllm.refusals import REFUSALS
from lightkv.integrations.vllm.schedules import serving_pipeline

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "vllm.md").read_text(encoding="utf-8")
LAYERS, BLOCK_SIZE = 32, 16
WHY = {
    "reads the vision encoder": "refused: reads the encoder",
    "on the cache": "refused: on the cache",
    "renumbers": "with `--set positions=keep`",
}
"""Words of an error → what the table says."""


def rows(table):
    """The rows of a table between its marks, without the head."""
    found = re.search(rf"<!-- {table} -->\n(.*?)<!-- /{table} -->", PAGE, re.S)
    assert found is not None
    return found[1].splitlines()[2:]


def row(*cells):
    return f"| {' | '.join(cells)} |"


def state(preset, **changes):
    """What the table says of a preset, and the pipeline where it runs."""
    pipeline = serving_pipeline(preset, LAYERS, block_size=BLOCK_SIZE, **changes)
    try:
        check_pipeline(pipeline, "preset")
    except ConfigError as error:
        (said,) = [words for told, words in WHY.items() if told in str(error)]
        return said, None
    return "runs", pipeline


def preset_row(preset):
    said, pipeline = state(preset)
    if said == WHY["renumbers"]:
        kept, pipeline = state(preset, positions="keep")
        assert kept == "runs", preset
    if pipeline is None:
        return row(f"`{preset}`", said, "")
    whole = ServingPlan(pipeline).reads_text
    return row(f"`{preset}`", said, "whole prompt" if whole else "up to the last vision token")


def counted_row(model, retention):
    options = ["--retention", str(retention), "--engine", "vllm", "--kv-gib", "8", "--json"]
    data = json.loads(CliRunner().invoke(app, ["plan", model, *options]).stdout)
    engine, after = data["engine"], data["compressed"]
    flops = after["prefill_flops"] + after["compression_flops"]
    held = [engine[side]["requests"] for side in ("vanilla", "compressed")]
    return row(
        f"`{model}`",
        f"{data['vanilla']['vision_tokens'][0]:,}",
        f"{data['planned_retention']:.3f}",
        ", ".join(str(stage["after_layer"]) for stage in data["schedule"]),
        f"× {engine['ratio']:.3f}",
        f"× {flops / data['vanilla']['prefill_flops']:.3f}",
        " → ".join(map(str, held)),
    )


def built_in():
    return [name for name, entry in registry().presets.items() if entry.package == "lightkv"]


MODELS = ("llava-v1.5-7b", "llava-v1.5-13b", "llava-next-7b", "qwen2.5-vl-7b")


@pytest.mark.parametrize("table", ["presets", "refusals", "counted"])
def test_tables_are_those_that_the_code_gives(table):
    made = {
        "presets": lambda: [preset_row(name) for name in built_in()],
        "refusals": lambda: [row(f"`{r.setting}`", r.what, r.remedy) for r in REFUSALS],
        "counted": lambda: [counted_row(model, r) for model in MODELS for r in (0.55, 0.35)],
    }[table]()
    assert rows(table) == made, "the table is now\n" + "\n".join(made)


def test_families_are_all_there_with_their_pictures():
    told = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in rows("families")]
    assert told == [(f"`{f.architecture}`", ", ".join(f.modalities)) for f in FAMILIES]
