"""Run the paper's Table 1 with lmms-eval: models × strategies × tasks, to be stopped and gone on with.

    python benchmarks/table1/run.py --out results [--models llava-v1.5-7b,…] [--strategies …]
        [--tasks …] [--retention 0.55] [--checkpoints FOLDER] [--limit N] [--batch-size 1]
        [--grid FILE] [--dry-run]

Each cell is one process of lmms-eval that writes below `OUT/MODEL/STRATEGY/TASK`; a cell with results
is not run again (and refused if they are of another command, such as a trial with `--limit`), a cell
that fails is noted with the log's path and does not stop the rest (exit code
1 at the end). lmms-eval loads the data sets from the hub, or from its cache with
HF_DATASETS_OFFLINE=1. `--checkpoints` is a folder in which each checkpoint lies under the last part
of its id. `table.py` makes the table of what is there, at any time.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
GRID = HERE / "grid.yaml"
COMMAND = "command.txt"
NEW_TOKENS = 128
"""As the authors' scripts set it for all tasks."""


@dataclass(frozen=True)
class Cell:
    """One run of lmms-eval."""

    model: str
    strategy: str
    task: str
    folder: Path
    command: tuple[str, ...]

    @property
    def done(self) -> bool:
        """Whether its results are there.

        Raises:
            SystemExit: there are results, of another command.
        """
        if not any(self.folder.rglob("*_results.json")):
            return False
        note = self.folder / COMMAND
        if note.is_file() and note.read_text() != self.line:
            raise SystemExit(f"{self.folder}: holds results of another command; use another --out")
        return True

    @property
    def line(self) -> str:
        """The command after the interpreter's name."""
        return shlex.join(self.command[1:])


def read_grid(path: Path) -> dict[str, Any]:
    """Models, strategies and tasks of a grid file.

    Raises:
        SystemExit: it cannot be read or lacks one of them.
    """
    try:
        grid = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SystemExit(f"--grid {path}: cannot be read ({error})") from error
    for key in ("models", "strategies", "tasks"):
        if not isinstance(grid, dict) or not isinstance(grid.get(key), dict):
            raise SystemExit(f"--grid {path}: {key} must be a mapping")
    return dict(grid)


def chosen(known: dict[str, Any], names: str | None, option: str) -> dict[str, Any]:
    """The entries that an option names, all if it is not given.

    Raises:
        SystemExit: a name that is not there.
    """
    if names is None:
        return known
    for name in names.split(","):
        if name not in known:
            raise SystemExit(f"{option} {name}: there are {', '.join(known)}")
    return {name: known[name] for name in names.split(",")}


def model_args(entry: dict[str, Any], strategy: dict[str, Any], args: argparse.Namespace) -> str:
    """`--model_args` of a model under a strategy."""
    source = str(entry["pretrained"])
    if args.checkpoints is not None:
        source = str(args.checkpoints / source.rsplit("/", 1)[-1])
    given = {"pretrained": source, **entry.get("args", {}), **strategy}
    if "strategy" in strategy:
        given.setdefault("retention", args.retention)
    if "system_prompt" in given:
        given["system_prompt"] = HERE / str(given["system_prompt"])
    return ",".join(f"{key}={value}" for key, value in given.items())


def cells(grid: dict[str, Any], args: argparse.Namespace) -> Iterator[Cell]:
    """All cells that are wanted, models outermost: tasks of one model share a warm file cache."""
    strategies = chosen(grid["strategies"], args.strategies, "--strategies")
    tasks = chosen(grid["tasks"], args.tasks, "--tasks")
    for model, entry in chosen(grid["models"], args.models, "--models").items():
        if not entry.get("run", True):
            print(f"{model}: left out: {entry.get('note', 'run: false')}")
            continue
        for strategy, changes in strategies.items():
            for task in tasks:
                folder = args.out / model / strategy / task
                command = [sys.executable, "-m", "lmms_eval", "--model", "lightkv"]
                command += ["--model_args", model_args(entry, changes, args), "--tasks", task]
                command += ["--batch_size", str(args.batch_size), "--log_samples"]
                command += ["--gen_kwargs", f"max_new_tokens={NEW_TOKENS}"]
                command += ["--output_path", str(folder)]
                if args.limit is not None:
                    command += ["--limit", str(args.limit)]
                if args.include_path is not None:
                    command += ["--include_path", str(args.include_path)]
                yield Cell(model, strategy, task, folder, tuple(command))


def run(cell: Cell) -> bool:
    """Run a cell; whether it wrote results. Its output is in `log.txt` in its folder."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    (cell.folder / COMMAND).write_text(cell.line)
    with (cell.folder / "log.txt").open("w") as log:
        subprocess.run(cell.command, stdout=log, stderr=subprocess.STDOUT, check=False)
    return cell.done  # lmms-eval ends with code 0 also when a task failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models")
    parser.add_argument("--strategies")
    parser.add_argument("--tasks")
    parser.add_argument("--retention", type=float, default=0.55)
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--grid", type=Path, default=GRID)
    parser.add_argument("--include-path", type=Path, help="a folder with tasks of your own")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    args = parser.parse_args()
    failed = 0
    for cell in cells(read_grid(args.grid), args):
        name = f"{cell.model} / {cell.strategy} / {cell.task}"
        if cell.done:
            print(f"{name}: there already")
        elif args.dry_run:
            print(shlex.join(cell.command))
        elif run(cell):
            print(f"{name}: done", flush=True)
        else:
            failed += 1
            print(f"{name}: FAILED, see {cell.folder / 'log.txt'}", flush=True)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
