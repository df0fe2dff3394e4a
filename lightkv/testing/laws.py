"""The laws that one step of a chain obeys by itself; a failure says who broke which, and where.

Every message names the stage, the role and its component, what was done and what is wanted, because
pytest shows the values of an assertion only in test files of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import torch

from lightkv.core.contracts import PROTECTED, Role
from lightkv.core.layout import IntArray, VisionLayout
from lightkv.core.modality import MODALITIES, removed
from lightkv.core.stage.partitions import partition_of
from lightkv.testing.cases import Step, described, rows_of


def check_step(step: Step, tolerance: float = 1e-5) -> None:
    """Every law that a step can be held against by itself."""
    check_budget(step)
    check_assignment(step)
    if step.stage.aggregator.convex:
        check_convexity(step, tolerance)
    check_text(step)
    check_last(step)
    check_order(step)
    check_layout(step)


def broken(step: Step, role: Role | None, what: str, wanted: str) -> NoReturn:
    """Say which component broke a law; without a role, that the stage did.

    Raises:
        AssertionError: always.
    """
    part = getattr(step.stage, role) if role is not None else None
    who = f"({described(step.stage)})" if part is None else f"{role} {part.name!r}"
    raise AssertionError(f"stage {step.number} of the chain, {who}: {what}; wanted: {wanted}")


def require(ok: object, step: Step, role: Role | None, what: str, wanted: str) -> None:
    """`broken` unless a condition holds."""
    if not bool(ok):
        broken(step, role, what, wanted)


def vision_of(hidden: torch.Tensor, layout: VisionLayout) -> torch.Tensor:
    """`[V, D]` the vision tokens of `[B, N, D]`."""
    flat = layout.token_index(hidden.device).flat
    return hidden.reshape(-1, hidden.shape[-1])[flat]


def window_labels(step: Step) -> list[IntArray]:
    """Window of each current token of each row, from the partitioner and the tokens' origins."""
    out, origin = [], step.layout.token_index(torch.device("cpu")).origin.numpy()
    rows = rows_of(step.layout.vision_counts)
    first = np.concatenate([[0], np.cumsum(step.layout.original_counts)])
    for row in range(step.layout.batch_size):
        stage = step.stage
        part = partition_of(step.layout, row, stage.partitioner, stage.windows, stage.ratio)
        own = origin[rows == row] - first[row]
        out.append(part.label if part.by == "rank" else part.label[own])
    return out


def modality_of_tokens(step: Step) -> IntArray:
    """`[V]` place in `MODALITIES` of each current token, from its origin."""
    origin = step.layout.token_index(torch.device("cpu")).origin.numpy()
    table = [np.zeros(0, np.int64), *(s.tokens.modality for s in step.layout.samples)]
    found: IntArray = np.concatenate(table)[origin]
    return found


def place_of_token(step: Step, token: int) -> str:
    """Row and window of a token that is counted over the batch."""
    labels = np.concatenate(window_labels(step))
    row = int(rows_of(step.layout.vision_counts)[token])
    window = "outside all windows" if labels[token] == PROTECTED else f"window {labels[token]}"
    return f"token {token} of the batch (row {row}, {window})"


def _first(flags: torch.Tensor) -> int:
    """The first place that is true."""
    return int(flags.flatten().to(torch.uint8).argmax())


def check_budget(step: Step) -> None:
    """Every window keeps what `Matcher.keep` says, or at most that under a dynamic budget.

    Protected tokens all stay, and no window holds tokens of two modalities.
    """
    survivor = step.result.assignment.survivor.cpu().numpy()
    shown = modality_of_tokens(step)
    rows = rows_of(step.layout.vision_counts)
    starts = np.concatenate([[0], np.cumsum(step.layout.vision_counts)])
    for row, label in enumerate(window_labels(step)):
        alive = label[survivor[rows[survivor] == row] - starts[row]]
        kinds = shown[starts[row] : starts[row + 1]]
        for window in np.unique(label):
            population, kept = int((label == window).sum()), int((alive == window).sum())
            told = f"{kept} of {population} tokens stayed"
            if window == PROTECTED:
                what = f"{told} of those of row {row} that stand outside all windows"
                require(kept == population, step, "matcher", what, "all of them")
                continue
            held = [MODALITIES[kind] for kind in np.unique(kinds[label == window])]
            what = f"window {window} of row {row} holds tokens of {' and '.join(held)}"
            require(len(held) == 1, step, "partitioner", what, "one modality in each window")
            share = removed(step.stage.ratio, held[0])
            budget = step.stage.matcher.keep(population, share)
            wanted = min(kept, budget) if step.stage.matcher.dynamic else budget
            what = f"{told} of window {window} of row {row}"
            require(kept == wanted, step, "matcher", what, f"{wanted}, which `keep` says")


def check_assignment(step: Step) -> None:
    """Each token is in one slot of its own window or dropped; each slot holds its survivor."""
    given = step.result.assignment
    slot, survivor, weight = given.slot.cpu(), given.survivor.cpu(), given.weight.cpu()
    slots = survivor.numel()
    counts = given.token_counts, given.slot_counts
    wanted = step.layout.vision_counts, step.result.layout.vision_counts
    what = f"it assigns {counts[0]} tokens of the rows to {counts[1]} slots"
    require(counts == wanted, step, None, what, f"{wanted[0]} to {wanted[1]}, as the layouts say")
    what = f"{slot.numel()} tokens and {slots} survivors are assigned"
    require(
        sum(counts[0]) == slot.numel() and sum(counts[1]) == slots, step, None, what, f"{wanted}"
    )
    outside = (slot < -1) | (slot >= slots)
    if bool(outside.any()):
        token = _first(outside)
        what = f"{place_of_token(step, token)} went to slot {int(slot[token])} of {slots}"
        broken(step, "matcher", what, "the slot of a survivor, or −1")
    left = slot[survivor] != torch.arange(slots)
    if bool(left.any()):
        token = int(survivor[_first(left)])
        what = f"{place_of_token(step, token)} survives, and flowed elsewhere"
        broken(step, "matcher", what, "a survivor flows into itself")
    _check_shares(step, slot, weight)
    _check_windows(step, slot, survivor)
    held, gone = int(given.group_sizes().sum()), int((slot < 0).sum())
    what = f"{held} tokens are in slots and {gone} are dropped"
    require(held + gone == slot.numel(), step, "matcher", what, f"{slot.numel()} together")


def _check_shares(step: Step, slot: torch.Tensor, weight: torch.Tensor) -> None:
    if bool((weight < 0).any()):
        token = _first(weight < 0)
        what = f"{place_of_token(step, token)} has a share of {float(weight[token]):g}"
        broken(step, "aggregator", what, "shares of 0 or more")
    stayed = (slot < 0) & (weight != 0)
    if bool(stayed.any()):
        token = _first(stayed)
        what = (
            f"{place_of_token(step, token)} was dropped and has a share of {float(weight[token]):g}"
        )
        broken(step, "aggregator", what, "a share of 0 for what leaves nothing behind")


def _check_windows(step: Step, slot: torch.Tensor, survivor: torch.Tensor) -> None:
    rows = torch.from_numpy(rows_of(step.layout.vision_counts))
    labels = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *window_labels(step)]))
    held = torch.nonzero(slot >= 0).flatten()
    into = survivor[slot[held]]
    for wrong, other in (
        (rows[held] != rows[into], "sample"),
        (labels[held] != labels[into], "window"),
    ):
        if bool(wrong.any()):
            first = _first(wrong)
            one, two = (
                place_of_token(step, int(held[first])),
                place_of_token(step, int(into[first])),
            )
            broken(
                step, "matcher", f"{one} flowed into another {other}, to {two}", f"its own {other}"
            )
    fixed = torch.nonzero(labels == PROTECTED).flatten()
    touched = survivor[slot[fixed]] != fixed
    if bool(touched.any()):
        what = f"{place_of_token(step, int(fixed[_first(touched)]))} did not stay itself"
        broken(step, "matcher", what, "protected tokens stay as they are")


def check_convexity(step: Step, tolerance: float) -> None:
    """Survivors are the weighted sums that the assignment says, and weights of a slot add up to 1."""
    given = step.result.assignment
    total = given.pooled(given.weight)
    off = (total - 1).abs() > tolerance
    if bool(off.any()):
        token = int(given.survivor[_first(off)])
        what = f"the shares in {place_of_token(step, token)} add up to {float(total[off][0]):g}"
        broken(step, "aggregator", what, "1, since `convex` is true")
    found = vision_of(step.result.hidden_states, step.result.layout).float()
    made = given.merged(vision_of(step.hidden, step.layout))
    apart = ~torch.isclose(found, made, atol=tolerance, rtol=tolerance)
    if bool(apart.any()):
        token = int(given.survivor[_first(apart.any(dim=1))])
        most = float((found - made).abs().max())
        what = (
            f"{place_of_token(step, token)} is not the sum of its slot by shares ({most:.3g} away)"
        )
        broken(step, "aggregator", what, f"within {tolerance:g}, since `convex` is true")


def check_text(step: Step) -> None:
    """Text tokens are bitwise the same, in the same order, and none is lost."""
    after = step.result.layout
    counts = after.text_counts, step.layout.text_counts
    require(
        counts[0] == counts[1], step, None, f"rows have {counts[0]} text tokens", f"{counts[1]}"
    )
    before_text = step.layout.token_index(step.hidden.device).text
    after_text = after.token_index(step.hidden.device).text
    width = step.hidden.shape[-1]
    old = step.hidden.reshape(-1, width)[before_text]
    new = step.result.hidden_states.reshape(-1, width)[after_text]
    changed = (old != new).any(dim=1)
    what = f"{int(changed.sum())} of {old.shape[0]} text tokens changed"
    require(torch.equal(old, new), step, None, what, "bitwise the same, in order")


def check_last(step: Step) -> None:
    """The last position of every row is bitwise the same, still last, and nothing flowed into it."""
    before, after = step.hidden, step.result.hidden_states
    what, wanted = "the last position of a row changed", "bitwise the same, since it is read next"
    require(torch.equal(after[:, -1], before[:, -1]), step, None, what, wanted)
    came = step.result.kept[:, -1]
    what = f"last positions came from {came.tolist()}"
    require((came == before.shape[1] - 1).all(), step, None, what, f"{before.shape[1] - 1}")
    held = step.result.assignment.group_sizes().cpu()
    place = torch.from_numpy(np.cumsum(step.result.layout.vision_counts)) - 1
    for row, sample in enumerate(step.layout.samples):
        if step.layout.original_counts[row] and sample.positions[-1] == _original_end(step, row):
            what = f"the last token of row {row} holds {held[place[row]]:g} tokens"
            require(held[place[row]] == 1, step, "matcher", what, "itself alone")


def _original_end(step: Step, row: int) -> int:
    """The last position of a row before any stage: what is not vision now was none then."""
    layout = step.layout
    return layout.samples[row].pad + layout.text_counts[row] + layout.original_counts[row] - 1


def check_order(step: Step) -> None:
    """Survivors stay in raster order, and so does the whole sequence."""
    survivor, index = step.result.assignment.survivor, step.result.layout.token_index
    device = survivor.device
    valid = step.result.layout.valid_mask(device)
    orders: list[tuple[str, torch.Tensor]] = [
        ("survivors", survivor),
        ("origins of survivors", index(device).origin),
        ("places of survivors", index(device).flat),
        *((f"row {row}", step.result.kept[row][valid[row]]) for row in range(valid.shape[0])),
    ]
    for name, order in orders:
        rising = (order.diff() > 0).all()
        require(rising, step, None, f"{name} are {order.tolist()}", "a rising order")


def check_layout(step: Step) -> None:
    """Counts, padding, places and length of the new layout fit the tensor and each other."""
    result, after = step.result, step.result.layout
    batch, length, _ = result.hidden_states.shape
    real = [t + v for t, v in zip(after.text_counts, after.vision_counts, strict=True)]
    mask = after.vision_mask(result.hidden_states.device)
    index = after.token_index(mask.device)
    together = torch.cat([index.flat, index.text]).sort().values
    places = torch.nonzero(after.valid_mask(mask.device).flatten()).flatten()
    # `kept` leads back to where each token stood.
    old = step.layout.token_index(mask.device)
    offsets = torch.arange(batch, device=mask.device)[:, None] * step.layout.length
    came_from = (result.kept + offsets).flatten()
    own = np.split(
        modality_of_tokens(replace(step, layout=after)), np.cumsum(after.vision_counts)[:-1]
    )
    shown = [
        {name: int((kinds == MODALITIES.index(name)).sum()) for name in counts}
        for counts, kinds in zip(after.counts_by_modality, own, strict=True)
    ]
    facts: list[tuple[str, Any, Any]] = [
        ("rows and length", (after.batch_size, after.length), (batch, length)),
        ("length", length, max(real)),
        ("padding", after.pads, tuple(length - n for n in real)),
        ("tokens of each modality", list(after.counts_by_modality), shown),
        ("vision tokens of each row", after.vision_counts, tuple(mask.sum(dim=1).tolist())),
        ("vision tokens in padding", int((mask & ~after.valid_mask(mask.device)).sum()), 0),
        ("places of its tokens", together.tolist(), places.tolist()),
        ("origins of its text", came_from[index.text].tolist(), old.text.tolist()),
        (
            "origins of its survivors",
            came_from[index.flat].tolist(),
            old.flat[result.assignment.survivor].tolist(),
        ),
    ]
    for name, found, wanted in facts:
        require(found == wanted, step, None, f"{name} of the new layout: {found}", f"{wanted}")


# -- two runs on the same tokens -------------------------------------------------------------------


def check_same(one: Step, other: Step, situation: str) -> None:
    """Two runs of a stage on the same tokens agree bitwise: importances, targets, then survivors."""
    first, second = one.result, other.result
    parts: list[tuple[Role, str, torch.Tensor | None, torch.Tensor | None]] = [
        ("scorer", "importances", first.score, second.score),
        ("matcher", "survivors", first.assignment.survivor, second.assignment.survivor),
        ("matcher", "targets", first.assignment.slot, second.assignment.slot),
        ("aggregator", "tokens", first.hidden_states, second.hidden_states),
    ]
    for role, name, mine, theirs in parts:
        if mine is not None and theirs is not None:
            what, wanted = f"it gives other {name} {situation}", f"the same {name}"
            require(torch.equal(mine, theirs), one, role, what, wanted)


def check_row(batch: Sequence[Step], alone: Sequence[Step], row: int, tolerance: float) -> None:
    """A row of a batch comes out of a chain as it does alone; a failure names the first difference."""
    together, single = _row(batch[-1], row), _row(alone[-1], 0)
    if _alike(together[1:], single[1:], tolerance):
        return
    roles: tuple[Role, ...] = ("scorer", "matcher", "aggregator")
    names = "importances", "survivors", "tokens"
    for one, other in zip(batch, alone, strict=True):
        parts = zip(roles, names, _row(one, row), _row(other, 0), strict=True)
        for role, name, mine, theirs in parts:
            if not _alike([mine], [theirs], tolerance):
                what = (
                    f"row {row} of a batch of {one.layout.batch_size} has other {name} than alone"
                )
                broken(one, role, what, "samples do not see each other")


def _row(step: Step, row: int) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Importances, origins of survivors and tokens of a row."""
    result, score = step.result, step.result.score
    before = torch.from_numpy(rows_of(step.layout.vision_counts) == row)
    after = torch.from_numpy(rows_of(result.layout.vision_counts) == row)
    origin = result.layout.token_index(result.hidden_states.device).origin[after]
    first = sum(step.layout.original_counts[:row])
    tokens = result.hidden_states[row, result.layout.pads[row] :]
    return None if score is None else score[before], origin - first, tokens


def _alike(
    mine: Sequence[torch.Tensor | None], theirs: Sequence[torch.Tensor | None], tolerance: float
) -> bool:
    for one, other in zip(mine, theirs, strict=True):
        if one is None or other is None:
            continue
        if one.shape != other.shape:
            return False
        if not torch.allclose(one, other, atol=tolerance, rtol=tolerance):
            return False
    return True
