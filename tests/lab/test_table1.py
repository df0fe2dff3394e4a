"""The scripts of Table 1, on results as lmms-eval writes them; no lmms-eval needed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

HOME = Path(__file__).parents[2] / "benchmarks" / "table1"


def script(name):
    spec = importlib.util.spec_from_file_location(f"table1_{name}", HOME / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


table, run = script("table"), script("run")


@pytest.fixture
def grid():
    return {
        "models": {
            "one": {"pretrained": "owner/one"},
            "two": {"pretrained": "two", "note": "later"},
        },
        "strategies": {"vanilla": {}, "lightkv": {"strategy": "lightkv"}},
        "tasks": {
            "gqa": [{"column": "GQA", "metric": "exact_match", "factor": 100}],
            "mme": [
                {"column": "MME-C", "metric": "mme_cognition_score", "factor": 1},
                {"column": "MME-P", "metric": "mme_perception_score", "factor": 1},
            ],
        },
    }


def save(folder, task, metrics, stamp="20260101_000000", **throughput):
    """A results file as lmms-eval 0.7.3 writes it."""
    folder = folder / task / "owner__one"
    folder.mkdir(parents=True, exist_ok=True)
    row = {"alias": task}
    for name, value in metrics.items():
        row |= {f"{name},none": value, f"{name}_stderr,none": "N/A"}
    data = {"results": {task: row}, "throughput": {"total_gen_tokens": 9, **throughput}}
    (folder / f"{stamp}_results.json").write_text(json.dumps(data))


@pytest.fixture
def results(tmp_path):
    """Model `one`: vanilla in full, lightkv without MME; nothing of model `two`."""
    save(tmp_path / "one" / "vanilla", "gqa", {"exact_match": 0.6})
    mme = {"mme_cognition_score": 300.0, "mme_perception_score": 1500.0}
    save(tmp_path / "one" / "vanilla", "mme", mme)
    shares = {"avg_retention": 0.553, "avg_flops_ratio": 0.651}
    save(tmp_path / "one" / "lightkv", "gqa", {"exact_match": 0.1}, "20250101_000000")
    save(tmp_path / "one" / "lightkv", "gqa", {"exact_match": 0.594}, **shares)
    return tmp_path


def rows(text):
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    return {(row[0], row[1].strip("`")): row[2:] for row in cells if len(row) > 2}


def test_ours_stand_beside_the_papers(results, grid):
    paper = {"one": {"vanilla": {"GQA": 61.0}, "lightkv": {"GQA": 60.0, "KV ×": 0.67}}}
    found = rows(table.markdown(table.collect(results, grid), paper, grid))
    assert found["model", "strategy"] == [
        *("GQA", "MME-C", "MME-P", "% of vanilla"),
        *("KV ×", "FLOPs ×"),
    ]
    assert found["one", "vanilla"] == [
        "60.0 (61.0)", "300.0", "1500.0", "100.0 (100.0)", "–", "–",
    ]  # fmt: skip
    # The newest results count; the mean is over the columns that both rows have.
    assert found["one", "lightkv"] == [
        "59.4 (60.0)", "–", "–", "99.0 (98.4)", "0.55 (0.67)", "0.65",
    ]  # fmt: skip
    assert found["two", "lightkv"] == ["–"] * 6


def test_the_template_has_every_row_before_anything_ran(tmp_path):
    grid, paper = (yaml.safe_load((HOME / f"{n}.yaml").read_text()) for n in ("grid", "paper"))
    text = table.markdown(table.collect(tmp_path, grid), paper, grid)
    assert len(rows(text)) == 2 + len(grid["models"]) * len(grid["strategies"])
    assert "– (0.65)" in rows(text)["llava-v1.5-13b", "lightkv"]
    assert "InternVLForConditionalGeneration" in text  # the note of a model that needs work
    assert set(paper) <= set(grid["models"])


def test_grid_names_only_presets_that_exist():
    from lightkv.core.pipeline.pipeline import resolve_spec

    grid = run.read_grid(run.GRID)
    for strategy in grid["strategies"].values():
        assert "strategy" not in strategy or resolve_spec(strategy["strategy"]).name
    assert len(grid["models"]) == 8
    assert len(grid["tasks"]) == 8


def test_the_table_goes_between_marks_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    table.write(page, "first")
    assert page.read_text() == f"{table.MARK}\nfirst\n{table.MARK}\n"
    page.write_text(f"before\n{table.MARK}\nold\n{table.MARK}\nafter\n")
    table.write(page, "new")
    assert page.read_text() == f"before\n{table.MARK}\nnew\n{table.MARK}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="nothing was written"):
        table.write(page, "new")
    assert page.read_text() == "no marks"


def test_a_damaged_results_file_is_named(results, grid):
    path = next(results.rglob("*_results.json"))
    path.write_text("{")
    with pytest.raises(SystemExit, match=path.name):
        table.collect(results, grid)


# -- the runs -------------------------------------------------------------------------------------


@pytest.fixture
def launch(tmp_path, grid, monkeypatch, capsys):
    """Call run.py's main with options; commands go to a stand-in that writes results for gqa only."""
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    asked = []

    def process(command, **_):
        asked.append(list(command))
        folder = Path(command[command.index("--output_path") + 1])
        if command[command.index("--tasks") + 1] == "gqa":
            save(folder.parent, "gqa", {"exact_match": 0.5})
        return subprocess.CompletedProcess(command, 0)  # as lmms-eval, also after a failure

    monkeypatch.setattr(run.subprocess, "run", process)

    def call(*options):
        asked.clear()
        given = ["run.py", "--out", str(tmp_path / "out"), "--grid", str(tmp_path / "grid.yaml")]
        monkeypatch.setattr(sys, "argv", [*given, *options])
        code = 0
        try:
            run.main()
        except SystemExit as error:
            code = error.code
        return code, list(asked), capsys.readouterr().out

    return call


def test_failed_cells_stop_nothing_and_are_tried_again(launch):
    code, asked, out = launch("--models", "one")
    assert code == 1
    assert len(asked) == 4
    assert out.count("FAILED") == 2
    args = asked[-1][asked[-1].index("--model_args") + 1]
    assert args == "pretrained=owner/one,strategy=lightkv,retention=0.55"
    code, asked, out = launch("--models", "one")
    assert [a[a.index("--tasks") + 1] for a in asked] == ["mme", "mme"]
    assert out.count("there already") == 2


def test_results_of_another_command_are_refused(launch):
    assert launch("--models", "one", "--tasks", "gqa", "--limit", "8")[0] == 0
    code, asked, _ = launch("--models", "one", "--tasks", "gqa")
    assert "results of another command" in code
    assert asked == []


def test_options(launch, tmp_path):
    code, asked, out = launch("--dry-run", "--checkpoints", "models", "--strategies", "vanilla")
    assert (code, asked) == (0, [])
    assert "pretrained=models/one " in out
    assert launch("--tasks", "mmo")[0] == "--tasks mmo: there are gqa, mme"
    (tmp_path / "grid.yaml").write_text("models: [")
    assert "cannot be read" in launch()[0]
    (tmp_path / "grid.yaml").write_text("models: {}")
    assert "strategies must be a mapping" in launch()[0]
