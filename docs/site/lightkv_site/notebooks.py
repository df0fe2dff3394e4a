"""Notebooks: their cells run in order, and as pages of the site. Needs neither Jupyter nor mkdocs.

    PYTHONPATH=docs/site python -m lightkv_site.notebooks docs/examples/tour.ipynb

runs a notebook and stores what its cells show. Cells are plain Python without magics, so that they run
in one namespace. What they print is kept, and the value of a last expression as text or as a picture. A
cell with the tag `parameters` has values that a run may replace. A cell that shows a picture has the
words for those who cannot see it in its metadata, as `alt`.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

Cell = dict[str, Any]
Notebook = dict[str, Any]
Outputs = list[dict[str, Any]]


def read(path: Path) -> Notebook:
    """The notebook as plain data."""
    found: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return found


def source(cell: Cell) -> str:
    """The text of a cell."""
    return "".join(cell["source"])


def code(notebook: Notebook) -> list[Cell]:
    """The cells that run, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def prose(notebook: Notebook) -> str:
    """The words between them, as Markdown."""
    words = [source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    return "\n\n".join(words) + "\n"


def tagged(cell: Cell, tag: str) -> bool:
    """Whether a cell has a tag."""
    return tag in cell["metadata"].get("tags", ())


def run(notebook: Notebook, given: Mapping[str, Any] | None = None) -> Iterator[Outputs]:
    """What each code cell shows, run in order in one namespace.

    Args:
        notebook: plain data, not changed.
        given: values in place of those of the cell with the tag `parameters`.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code(notebook), start=1):
        yield _run(source(cell), f"<cell {number}>", namespace, number)
        if tagged(cell, "parameters"):
            namespace |= given or {}


def _run(text: str, where: str, namespace: dict[str, Any], number: int) -> Outputs:
    body = ast.parse(text, where).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with redirect_stdout(printed):
        exec(compile(ast.Module(body, []), where, "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), where, "eval"), namespace)
    shown: Outputs = []
    if printed.getvalue():
        lines = printed.getvalue().splitlines(keepends=True)
        shown.append({"name": "stdout", "output_type": "stream", "text": lines})
    if value is not None:
        result = {"data": _data(value), "execution_count": number, "metadata": {}}
        shown.append({**result, "output_type": "execute_result"})
    return shown


def _data(value: Any) -> dict[str, Any]:
    """A value as Jupyter stores it; addresses differ from run to run and are left out."""
    found: dict[str, Any] = {}
    drawn = getattr(value, "_repr_png_", None)
    if drawn is not None:
        found["image/png"] = base64.b64encode(drawn()).decode() + "\n"
    words = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
    return {**found, "text/plain": words.splitlines(keepends=True)}


def text(outputs: Outputs) -> str:
    """The words of what a cell shows; pictures are none."""
    parts = []
    for output in outputs:
        if output["output_type"] == "stream":
            parts.append("".join(output["text"]))
        elif "image/png" not in output["data"]:
            parts.append("".join(output["data"]["text/plain"]) + "\n")
    return "".join(parts)


def pictures(outputs: Outputs) -> list[bytes]:
    """The PNG files among what a cell shows."""
    data = [output.get("data", {}).get("image/png") for output in outputs]
    return [base64.b64decode(png) for png in data if png is not None]


def page(notebook: Notebook, name: str) -> tuple[str, dict[str, bytes]]:
    """The notebook with its stored outputs as Markdown, and the pictures that it shows.

    Args:
        notebook: plain data.
        name: of the file, without its end; pictures are named after it.
    """
    found: dict[str, bytes] = {}
    parts = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            parts.append(source(cell))
            continue
        parts.append(f"```python\n{source(cell)}\n```")
        words = text(cell["outputs"])
        if words:
            parts.append(f"```{{.text .output}}\n{words.rstrip()}\n```")
        for png in pictures(cell["outputs"]):
            file = f"{name}-{len(found) + 1}.png"
            found[file] = png
            # As a link to itself: on the page a wide picture is smaller than it is.
            parts.append(f"[![{cell['metadata']['alt']}]({file})]({file})")
    parts.append(f"[Download the notebook]({name}.ipynb){{ .md-button download }}")
    return "\n\n".join(parts) + "\n", found


def store(path: Path) -> None:
    """Run a notebook, and write what its cells show into it."""
    notebook = read(path)
    shown = run(notebook)
    for number, cell in enumerate(code(notebook), start=1):
        cell["outputs"], cell["execution_count"] = next(shown), number
    written = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    path.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        store(Path(argument))
