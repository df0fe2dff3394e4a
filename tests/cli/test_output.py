"""The bar over cells and its time left."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from lightkv.cli import output


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (119, "119 s"),
        (121, "2 min"),
        (4000, "67 min"),
        (8000, "2 h 13 min"),
        (200_000, "2.3 days"),
    ],
)
def test_durations(seconds, text):
    assert output.duration_text(seconds) == text


def test_the_bar_counts_down(monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(output, "notes", lambda: screen)
    with output.cells_bar() as bar:
        task = bar.add_task("reading the grid", total=None, end=None)
        bar.refresh()
        assert "left" not in screen.file.getvalue()
        bar.update(task, completed=1, total=3, description="a [b]", end=time.monotonic() + 300.5)
        bar.refresh()
    assert "about 5 min left" in screen.file.getvalue()
    assert "a [b]" in screen.file.getvalue()


@pytest.mark.parametrize("columns", ["20", "80"])
def test_no_word_is_broken_without_a_terminal(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    made = output.table("study", "metric", "difference [95 %]", left=2, compact=True)
    cells = ("s" * 90, "guidance=lightkv-plus retention=0.55", "-25.0 [-41.3, +1.6]")
    made.add_row(*cells)
    made.add_row("t" * 140, "m" * 120, "+0.0 [-23.8, +23.8]")
    out = output.console()
    out.print(made)
    out.print("one word after another " * 20)
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if "lightkv-plus" in line)
    assert row.split() == " ".join(cells).split()
    assert any("t" * 140 in line and "m" * 120 in line and "+23.8]" in line for line in lines)
    prose = [line for line in lines if "another" in line]
    assert len(prose) > 1
    assert max(map(len, prose)) <= output.PROSE
    output.notes().print("12 of 40: " + "a" * 200)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_tables_of_prose_are_wrapped_between_words(capsys):
    made = output.table("refused", "why", left=2)
    made.add_row("type", "because of this " * 60)
    output.console().print(made)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= output.WIDEST
    assert "because of this " * 5 in "\n".join(lines)
