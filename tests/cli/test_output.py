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
