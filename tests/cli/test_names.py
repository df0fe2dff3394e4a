"""Names of a user are printed as they are, in every command: nothing in them is markup or formula."""

from __future__ import annotations

import io

import pytest
import yaml
from rich.console import Console

import lightkv
from lightkv.core.pipeline.pipeline import get_preset

NAME = r"[red]a[/red] [/] [link=x :smile: $\frac$"


@pytest.fixture
def pipeline(tmp_path):
    path = tmp_path / "named.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(get_preset("tome").to_yaml()), "name": NAME}))
    return path


def joined(text):
    return " ".join(text.split())


def test_plan_and_sweep(ok, pipeline, tmp_path):
    assert NAME in joined(ok("plan", "llava-v1.5-7b", "--strategy", pipeline))
    args = ("plan", "llava-v1.5-7b", "--strategy", pipeline, "--sweep", "--range", "0.5:0.6:0.1")
    ok(*args)
    pytest.importorskip("matplotlib")
    ok(*args, "--plot", tmp_path / "[red]x.svg")


def test_run_and_demo(ok, bundled, picture, pipeline):
    asked = ("--prompt", "list all [/] digits", "--max-new-tokens", 2)
    args = ("run", "--model", "demo", "--image", picture, "--pipeline", pipeline, *asked)
    assert "[red]a[/red] [/]" in joined(ok(*args, "--compare"))
    assert "[red]a[/red]" in ok("demo", "--samples", 1, "--strategies", pipeline)


def test_errors_and_paths(fails, ok, pipeline, tmp_path):
    assert "[red]x[/]" in fails("plan", "[red]x[/]")
    assert "[/red]" in fails("plan", "llava-v1.5-7b", "--strategy", "[/red]")
    pipeline.write_text("matcher: '[/red]'\n")
    assert "[/red]" in fails("plan", "llava-v1.5-7b", "--strategy", pipeline)
    pipeline.write_text("matcher: top-k\nmatcher: tome\n")
    words = fails("plan", "llava-v1.5-7b", "--strategy", pipeline)
    assert "'matcher' is there twice" in words
    assert "line 2" in words


def test_a_report_in_a_console_of_the_user(bundled, picture):
    from PIL import Image

    from lightkv.demo.model import load
    from lightkv.demo.scenes import prompt

    model, processor = load()
    inputs = processor(
        images=[Image.open(picture)], text=[prompt("list all digits")], return_tensors="pt"
    )
    with lightkv.compress(model, "tome") as plain:
        model.generate(**inputs, max_new_tokens=1)
    spec = get_preset("tome").model_copy(update={"name": NAME})
    with lightkv.compress(model, spec) as run:
        model.generate(**inputs, max_new_tokens=1)
    out = Console(width=160, file=io.StringIO())
    out.print(run.last)
    for text in (out.file.getvalue(), str(run.last)):
        assert NAME in joined(text)
    assert run.last.samples == plain.last.samples


@pytest.mark.parametrize(
    "args",
    [
        ("--vision-tokens", 4_000_001),
        ("--vision-tokens", 10**12),
        ("--vision-tokens", 10**30),
        ("--grid", "1000000x1000000"),
        ("--grid", f"{10**30}x2"),
        ("--text-tokens", 10**12),
        ("--new-tokens", 10**30),
        ("--layers", f"{10**30}"),
        ("--layers", "10", "--windows", f"{10**9}"),
        ("--layers", "10", "--ratios", "nan"),
        ("--retention", "nan"),
        ("--retention", "inf"),
    ],
)
def test_figures_beyond_all_bounds(fails, args):
    words = fails("plan", "llava-v1.5-7b", *args)
    assert "grid" in words if args[0] == "--grid" else str(args[-1]) in words
