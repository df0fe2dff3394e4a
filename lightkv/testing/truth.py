"""Layout truth: the cell that a layout gives to a token is the cell whose pixels move that token.

before = decoder_inputs(model, decoder, inputs)[0]
after = decoder_inputs(model, decoder, painted_inputs)[0]
check_painted(before, after, layout.samples[0], {0: (0, 0.40, 0.05)})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from lightkv.core.layout import SampleLayout, View

Point = tuple[int, float, float]
"""Centre of what was painted: frame, and y and x in [0, 1) of the region that the view covers."""


class _Seen(Exception):
    """Ends a forward pass once the embeddings are known."""

    def __init__(self, embeddings: torch.Tensor) -> None:
        super().__init__()
        self.embeddings = embeddings


def decoder_inputs(model: nn.Module, decoder: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    """`[B, N, D]` embeddings that reach the decoder, or its first layer where it makes them itself."""

    def stop(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if (embeddings := kwargs.get("inputs_embeds")) is not None:
            raise _Seen(embeddings.detach().clone())

    def stop_layer(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        raise _Seen((args[0] if args else kwargs["hidden_states"]).detach().clone())

    handles = [decoder.register_forward_pre_hook(stop, with_kwargs=True)]
    for layer in list(getattr(decoder, "layers", ()))[:1]:
        handles.append(layer.register_forward_pre_hook(stop_layer, with_kwargs=True))
    try:
        with torch.no_grad():
            model(**inputs)
    except _Seen as seen:
        return seen.embeddings
    finally:
        for handle in handles:
            handle.remove()
    raise AssertionError("the decoder did not run")


def moved(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """`[N]` how far each embedding of `[N, D]` moved, relative to its length."""
    gap: torch.Tensor = (after.float() - before.float()).norm(dim=-1)
    length: torch.Tensor = before.float().norm(dim=-1)
    return gap / length.clamp_min(1e-9)


def cell_at(view: View, point: Point) -> int:
    """Raster cell of a view that holds a point."""
    frame, y, x = point
    _, rows, columns = view.grid
    return (frame * rows + int(y * rows)) * columns + int(x * columns)


def check_painted(
    before: torch.Tensor,
    after: torch.Tensor,
    sample: SampleLayout,
    painted: Mapping[int, Point],
) -> None:
    """Assert that paint moved the tokens that the layout says it should move.

    Args:
        before, after: `[N, D]` embeddings of the whole row, from `decoder_inputs`.
        sample: layout of the row.
        painted: number of a view → centre of the paint there. In each of them the token that moves
            most must be that of the painted cell; no token of another view may move more than all.
    """
    far = moved(before, after)
    peaks = []
    for number, view in enumerate(sample.views):
        shift = far[torch.as_tensor(view.positions)]
        peaks.append(float(shift.max()))
        if number not in painted:
            continue
        found, wanted = int(view.cells[int(shift.argmax())]), cell_at(view, painted[number])
        assert peaks[number] > 0, f"view {number} did not move"
        assert found == wanted, (
            f"view {number} {view.grid}: paint at {painted[number]} (cell {wanted}) moved {found}"
        )
    assert peaks.index(max(peaks)) in painted, f"paint in {set(painted)} moved views by {peaks}"


def points(rows: int, columns: int) -> Iterable[tuple[float, float]]:
    """(y, x) centres of cells of a grid: its corners and two inside."""
    inside = [(rows // 2, columns // 3), (rows // 3, columns - 2)]
    corners = [(0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1)]
    for row, column in corners + inside:
        yield (row + 0.5) / rows, (column % columns + 0.5) / columns
