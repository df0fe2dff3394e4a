"""The paper's Table 1 in Markdown from the results that `run.py` left, the paper's figures beside ours.

    python benchmarks/table1/table.py results [--grid FILE] [--paper FILE] [--write FILE]

Each cell is `ours (paper's)`, a dash for what is not there; in `paper.yaml` type in what you have of
the paper. The last columns: the mean of a row's accuracies in % of the uncompressed model's, over the
columns that both have; the achieved share of the vision tokens' KV cache, and the FLOPs of prefill,
compression included, relative to the uncompressed model (the paper's are of the whole cache, and of
prefill with 100 generated tokens). `--write` puts the table between the marks <!-- TABLE1 --> of a
file that has them, or writes a new file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
MARK = "<!-- TABLE1 -->"
MEAN, KV, FLOPS = "% of vanilla", "KV ×", "FLOPs ×"
VANILLA = "vanilla"
Figures = dict[str, dict[str, dict[str, float]]]
"""Model → strategy → column → number."""


def newest(folder: Path) -> dict[str, Any] | None:
    """The last results that lmms-eval wrote below a folder; None if there are none.

    Raises:
        SystemExit: the file is no JSON.
    """
    paths = sorted(folder.rglob("*_results.json"), key=lambda path: path.name)
    if not paths:
        return None
    try:
        return dict(json.loads(paths[-1].read_text()))
    except (json.JSONDecodeError, UnicodeDecodeError, ValueError) as error:
        raise SystemExit(f"{paths[-1]}: not a results file ({error})") from error


def metric(results: dict[str, Any], task: str, name: str) -> float | None:
    """A task's metric; lmms-eval writes `metric,filter`."""
    for key, value in results.get("results", {}).get(task, {}).items():
        if key.split(",")[0] == name and isinstance(value, (int, float)):
            return float(value)
    return None


def collect(folder: Path, grid: dict[str, Any]) -> Figures:
    """What stands below `folder`, with the mean over the vanilla row's columns."""
    figures: Figures = {}
    for model in grid["models"]:
        for strategy in grid["strategies"]:
            row: dict[str, float] = {}
            shares: dict[str, list[float]] = {KV: [], FLOPS: []}
            for task, columns in grid["tasks"].items():
                results = newest(folder / model / strategy / task)
                if results is None:
                    continue
                for column in columns:
                    value = metric(results, task, column["metric"])
                    if value is not None:
                        row[column["column"]] = value * column["factor"]
                measured = results.get("throughput", {})
                for name, key in ((KV, "avg_retention"), (FLOPS, "avg_flops_ratio")):
                    if key in measured:
                        shares[name].append(measured[key])
            row |= {name: sum(found) / len(found) for name, found in shares.items() if found}
            figures.setdefault(model, {})[strategy] = row
        relate(figures[model], grid)
    return figures


def relate(rows: dict[str, dict[str, float]], grid: dict[str, Any]) -> None:
    """Add to each row of a model its mean share of the uncompressed model's figures, in %."""
    names = headings(grid)
    base = rows.get(VANILLA, {})
    for row in rows.values():
        shares = [row[name] / base[name] for name in names if name in row and base.get(name)]
        if shares:
            row[MEAN] = 100 * sum(shares) / len(shares)


def headings(grid: dict[str, Any]) -> list[str]:
    """The accuracy columns in order."""
    return [column["column"] for columns in grid["tasks"].values() for column in columns]


def cell(ours: float | None, paper: float | None, digits: int) -> str:
    """`ours (paper's)`."""
    mine = "–" if ours is None else f"{ours:.{digits}f}"
    return mine if paper is None else f"{mine} ({paper:.{digits}f})"


def markdown(figures: Figures, paper: Figures, grid: dict[str, Any]) -> str:
    """The table, all rows of the grid, also empty ones."""
    columns = [*headings(grid), MEAN, KV, FLOPS]
    lines = [
        "| model | strategy | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for model in grid["models"]:
        published = {name: dict(row) for name, row in (paper.get(model) or {}).items()}
        relate(published, grid)
        for strategy in grid["strategies"]:
            ours = figures.get(model, {}).get(strategy, {})
            theirs = published.get(strategy, {})
            shown = [
                cell(ours.get(name), theirs.get(name), 2 if name in (KV, FLOPS) else 1)
                for name in columns
            ]
            lines.append(f"| {model} | `{strategy}` | " + " | ".join(shown) + " |")
    notes = [f"* {name}: {e['note']}" for name, e in grid["models"].items() if e.get("note")]
    return "\n".join([*lines, "", "Ours, with the paper's figure in brackets.", *notes])


def write(path: Path, table: str) -> None:
    """Put the table between the marks of a file, or into a new one.

    Raises:
        SystemExit: a file that has no marks, which is not overwritten.
    """
    if not path.exists():
        path.write_text(f"{MARK}\n{table}\n{MARK}\n")
        return
    pieces = path.read_text().split(MARK)
    if len(pieces) != 3:
        raise SystemExit(f"{path}: there and without two marks {MARK}; nothing was written")
    path.write_text(f"{pieces[0]}{MARK}\n{table}\n{MARK}{pieces[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--grid", type=Path, default=HERE / "grid.yaml")
    parser.add_argument("--paper", type=Path, default=HERE / "paper.yaml")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    grid = yaml.safe_load(args.grid.read_text())
    paper = yaml.safe_load(args.paper.read_text()) or {}
    table = markdown(collect(args.results, grid), paper, grid)
    if args.write:
        write(args.write, table)
    else:
        print(table)


if __name__ == "__main__":
    main()
