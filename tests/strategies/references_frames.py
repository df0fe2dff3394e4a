"""Slow references of the methods for video, written from papers and codes: loops over frames and places.

Nothing here calls a component. `REFERENCES` maps a name to a function of a seed that returns the largest
difference between method and reference, infinity where other tokens survive:

    python tests/strategies/references_frames.py        # prints the table
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from lightkv import Stage, VisionLayout
from lightkv.core.contracts import StageContext
from lightkv.functional import compress_stage

WIDTH, HEADS, HEAD_DIM, BEFORE, AFTER = 10, 2, 4, 2, 3


class Clip:
    """Scenes that stand still but for some places, cut hard now and then; sometimes one frame."""

    def __init__(self, seed, noise=0.25, frames=None):
        random = np.random.default_rng(seed)
        self.frames = int(frames or random.integers(1, 11))
        self.rows, self.columns = (int(n) for n in random.integers(2, 5, size=2))
        self.places = self.rows * self.columns
        self.count = self.frames * self.places
        self.ratio = float(random.choice([0.3, 0.5, 0.7, 0.85]))
        self.length = BEFORE + self.count + AFTER
        scenes = random.normal(size=(4, self.places, WIDTH))
        scene, shown = 0, []
        for _ in range(self.frames):
            scene = int(random.integers(0, 4)) if random.random() < 0.2 else scene
            frame = scenes[scene] + noise * random.normal(size=(self.places, WIDTH))
            moved = random.random(self.places) < 0.3
            frame[moved] = random.normal(size=(int(moved.sum()), WIDTH))
            shown.append(frame)
        hidden = random.normal(size=(self.length, WIDTH))
        hidden[BEFORE : BEFORE + self.count] = np.concatenate(shown)
        self.hidden = hidden.astype(np.float32)
        self.query = random.normal(size=(HEADS, self.length, HEAD_DIM)).astype(np.float32)
        self.key = random.normal(size=(HEADS, self.length, HEAD_DIM)).astype(np.float32)
        tokens = self.hidden[BEFORE : BEFORE + self.count].astype(np.float64)
        self.x = {(t, p): tokens[t * self.places + p] for t, p in self.cells()}

    def cells(self):
        return itertools.product(range(self.frames), range(self.places))

    def number(self, cell):
        return cell[0] * self.places + cell[1]

    def kept(self, rounding):
        return int(rounding(round(self.count * (1 - self.ratio), 6)))

    def last_row(self):
        """Attention of the last query to each cell, mean over heads."""
        out = dict.fromkeys(self.cells(), 0.0)
        for head in range(HEADS):
            logits = self.key[head].astype(np.float64) @ self.query[head, -1].astype(np.float64)
            share = np.exp(logits / math.sqrt(HEAD_DIM))
            share = share / share.sum()
            for cell in out:
                out[cell] += share[BEFORE + self.number(cell)] / HEADS
        return out


def cos(a, b):
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def falling(value, among=None):
    """Cells in falling value, the earlier one first among equals."""
    return sorted(value if among is None else among, key=lambda cell: (-value[cell], cell))


def stands_out(clip):
    """1 − cosine with the mean direction of the frame."""
    out = {}
    for t in range(clip.frames):
        frame = [clip.x[t, p] / np.linalg.norm(clip.x[t, p]) for p in range(clip.places)]
        mean = sum(frame)
        for p in range(clip.places):
            out[t, p] = 1 - cos(clip.x[t, p], mean)
    return out


# -- EVS, DyCoke -------------------------------------------------------------------------------


def evs(clip):
    out = stands_out(clip)
    change = {}
    for t, p in clip.cells():
        change[t, p] = 3 + out[0, p] if t == 0 else 1 - cos(clip.x[t, p], clip.x[t - 1, p])
    return {cell: clip.x[cell] for cell in falling(change)[: clip.kept(math.floor)]}


EARLIER = {1: 0, 2: 0, 3: 2}
"""Of four frames: which one is compared with which."""


def dycoke(clip):
    out, n, total = stands_out(clip), clip.places, clip.kept(math.floor)
    own = {t: [(t, p) for p in range(n)] for t in range(clip.frames)}
    whole = [t for t in own if t % 4 == 0]
    others = [t for t in own if t % 4]
    kept = []
    if total >= len(whole) * n:
        kept = [cell for t in whole for cell in own[t]]
        sharing, value = others, {}
        for t in others:
            first = t - t % 4 + EARLIER[t % 4]
            value |= {(t, p): 1 - cos(clip.x[t, p], clip.x[first, p]) for p in range(n)}
    else:
        sharing, value = whole, out
    left = total - len(kept)
    for place, t in enumerate(sharing):
        share = left // len(sharing) + (place < left % len(sharing))
        kept += falling(value, own[t])[:share]
    return {cell: clip.x[cell] for cell in kept}


# -- FrameFusion -------------------------------------------------------------------------------


def framefusion(clip, threshold=0.6):
    total, importance = clip.kept(round), clip.last_row()
    near = {(t, p): cos(clip.x[t, p], clip.x[t - 1, p]) for t, p in clip.cells() if t}
    merged = [cell for cell in falling(near) if near[cell] >= threshold][: clip.count - total]
    groups = []
    for p in range(clip.places):
        for t in range(clip.frames):
            if (t, p) in merged:
                groups[-1].append((t, p))
            else:
                groups.append([(t, p)])
    mean = {group[0]: sum(importance[c] for c in group) / len(group) for group in groups}
    kept = falling(mean)[:total]
    return {g[0]: sum(clip.x[c] for c in g) / len(g) for g in groups if g[0] in kept}


# -- density -----------------------------------------------------------------------------------


def by_peaks(vectors, neighbours):
    """Keys of {key: vector} in falling density × distance."""
    far = {
        (a, b): float(np.linalg.norm(vectors[a] - vectors[b])) / math.sqrt(WIDTH)
        for a in vectors
        for b in vectors
    }
    density = {}
    for a in vectors:
        nearest = sorted(far[a, b] for b in vectors)[:neighbours]
        density[a] = math.exp(-sum(d * d for d in nearest) / len(nearest))
    peak = {}
    for a in vectors:
        denser = [b for b in vectors if (density[b], -rank(b)) > (density[a], -rank(a))]
        apart = min((far[a, b] for b in denser), default=max(far.values()))
        peak[a] = density[a] * apart
    return falling(peak)


def rank(cell):
    return cell[0] * 1000 + cell[1]


# -- FastVID -----------------------------------------------------------------------------------


def cut_at(clip, count, threshold):
    """Lists of frames."""
    features = [sum(clip.x[t, p] for p in range(clip.places)) for t in range(clip.frames)]
    near = {(t, 0): -cos(features[t], features[t - 1]) for t in range(1, clip.frames)}
    begins = {t for t, _ in falling(near)[: count - 1]}
    begins |= {t for (t, _), value in near.items() if -value < threshold}
    segments = []
    for t in range(clip.frames):
        if t == 0 or t in begins:
            segments.append([])
        segments[-1].append(t)
    return segments


def even(total, among):
    return {t: total // len(among) + (i < total % len(among)) for i, t in enumerate(among)}


def fastvid(clip, count=8, threshold=0.9, context=0.4, step=4, beta=0.6):
    out, total = stands_out(clip), clip.kept(round)
    frames = list(range(clip.frames))
    share = even(total - int(total * context), frames)
    salient = []
    for t in frames:
        salient += falling(out, [(t, p) for p in range(clip.places)])[: share[t]]
    brought = even(total - len(salient), frames)
    joined = {}
    for segment in cut_at(clip, count, threshold):
        anchors = sorted(segment[::-1][::step])
        quota = even(sum(brought[t] for t in segment), anchors)
        centres = []
        for t in anchors:
            free = {(t, p): clip.x[t, p] for p in range(clip.places) if (t, p) not in salient}
            centres += by_peaks(free, 4)[: quota[t]] if free else []
        joined |= dict.fromkeys(centres, (segment, centres))
    kept = salient + list(joined)
    rest = [cell for cell in falling(out) if cell not in kept]
    extra = rest[: total - len(kept)]
    groups = {cell: [cell] for cell in [*kept, *extra]}
    for cell in clip.cells():
        centres = sorted(c for c in joined if cell[0] in joined[c][0])
        if cell not in groups and centres:
            near = [cos(clip.x[cell], clip.x[c]) for c in centres]
            groups[centres[near.index(max(near))]].append(cell)
    made = {}
    for centre, group in groups.items():
        mean = sum(clip.x[c] for c in group) / len(group)
        own = max(beta, 1 / (len(group) + 1))
        made[centre] = own * clip.x[centre] + (1 - own) * mean
    return made


# -- HoliTom -----------------------------------------------------------------------------------


def compositions(total):
    """All ways to write `total` as a sum of segment lengths."""
    if total == 0:
        yield []
    for last in range(1, total + 1):
        for first in compositions(total - last):
            yield [*first, last]


def best_cut(clip, same):
    """By trying all cuts; among equals that whose last segments are shortest."""

    def merged(lengths):
        gain, start = 0, 0
        for length in lengths:
            inside = range(start + 1, start + length)
            still = sum(all(same[t, p] for t in inside) for p in range(clip.places))
            gain, start = gain + still * (length - 1), start + length
        return gain

    return min(compositions(clip.frames), key=lambda cut: (-merged(cut), cut[::-1]))


def holitom(clip, threshold=0.8, beta=0.6, neighbours=7):
    out, total = stands_out(clip), clip.kept(round)
    near = {(t, p): cos(clip.x[t, p], clip.x[t - 1, p]) for t, p in clip.cells() if t}
    same = {cell: value > threshold for cell, value in near.items()}
    parts, followers, start = [], {}, 0
    for length in best_cut(clip, same):
        inside = range(start + 1, start + length)
        still = [p for p in range(clip.places) if length > 1 and all(same[t, p] for t in inside)]
        followers |= {(t, p): (start, p) for t in inside for p in still}
        for t in range(start, start + length):
            # The moving tokens of a frame, then the static places of a segment.
            parts.append(("moving", [(t, p) for p in range(clip.places) if p not in still]))
            parts.append(("static", [(t, p) for p in still] if t == start else []))
        start += length
    going = falling(near, followers)[: clip.count - total]
    for t in range(clip.frames):
        parts[2 * t][1].extend(c for c in followers if c[0] == t and c not in going)
    groups = {cell: [cell] for cell in clip.cells() if cell not in going}
    for cell in going:
        groups[followers[cell]].append(cell)
    mean = {head: sum(clip.x[c] for c in group) / len(group) for head, group in groups.items()}
    shares = largest_fractions([len(cells) for _, cells in parts], total)
    made = {}
    for (kind, cells), share in zip(parts, shares, strict=True):
        if kind == "moving":
            made |= {cell: clip.x[cell] for cell in falling(out, cells)[:share]}
            continue
        centres = sorted(by_peaks({c: mean[c] for c in cells}, neighbours)[:share]) if cells else []
        joined = {centre: [] for centre in centres}
        for cell in cells:
            if cell not in joined and centres:
                apart = [np.linalg.norm(mean[cell] - mean[c]) for c in centres]
                joined[centres[apart.index(min(apart))]] += groups[cell]
        for centre, cells_of in joined.items():
            made[centre] = mean[centre]
            if cells_of:
                others = sum(clip.x[c] for c in cells_of) / len(cells_of)
                made[centre] = beta * mean[centre] + (1 - beta) * others
    return made


def largest_fractions(sizes, total):
    exact = [total * size / sum(sizes) for size in sizes]
    whole = [total * size // sum(sizes) for size in sizes]
    order = sorted(range(len(sizes)), key=lambda i: (-(total * sizes[i] % sum(sizes)), i))
    for i in order[: total - sum(whole)]:
        whole[i] += 1
    assert all(abs(a - b) < 1 for a, b in zip(exact, whole, strict=True))
    return whole


# -- comparison --------------------------------------------------------------------------------


def difference(clip, name, wanted, **roles):
    """Largest difference between a preset and {cell: vector}."""
    grid = (clip.frames, clip.rows, clip.columns)
    layout = VisionLayout.from_spans([[(BEFORE, grid, "video")]], length=clip.length)
    result = compress_stage(
        torch.from_numpy(clip.hidden)[None],
        layout,
        Stage.preset(name, ratio=clip.ratio, **roles),
        query=torch.from_numpy(clip.query)[None],
        key=torch.from_numpy(clip.key)[None],
        context=StageContext(after_layer=2),
    )
    index = result.layout.token_index(torch.device("cpu"))
    numbers = {clip.number(cell): vector for cell, vector in wanted.items()}
    if index.origin.tolist() != sorted(numbers):
        return math.inf
    found = result.hidden_states[0][index.flat].double().numpy()
    made = [numbers[i] for i in index.origin.tolist()]
    return max((float(np.abs(a - b).max()) for a, b in zip(found, made, strict=True)), default=0)


def _of(name, reference, noise=0.25, frames=None, **roles):
    def of_seed(seed):
        clip = Clip(seed, noise, frames)
        return difference(clip, name, reference(clip), **roles)

    return of_seed


SOFT = {"name": "segment-density", "segments": 2, "similarity": 0.3, "context": 0.8, "step": 2}

REFERENCES = {
    "evs": _of("evs", evs),
    "evs, a still picture": _of("evs", evs, frames=1),
    "dycoke": _of("dycoke", dycoke),
    "dycoke, a still picture": _of("dycoke", dycoke, frames=1),
    "framefusion": _of("framefusion", framefusion),
    "framefusion, similarity: 0.97": _of(
        "framefusion",
        lambda clip: framefusion(clip, 0.97),
        noise=0.1,
        matcher={"name": "frame-fusion", "similarity": 0.97},
    ),
    "fastvid": _of("fastvid", fastvid),
    "fastvid, a still picture": _of("fastvid", fastvid, frames=1),
    "fastvid, long segments": _of(
        "fastvid",
        lambda clip: fastvid(clip, 2, 0.3, 0.8, 2, 0.2),
        matcher=SOFT,
        aggregator={"name": "anchored-mean", "anchor": 0.2},
    ),
    "holitom": _of("holitom", holitom),
    "holitom, little noise": _of("holitom", holitom, noise=0.05),
    "holitom, a still picture": _of("holitom", holitom, frames=1),
    "holitom, 3 neighbours": _of(
        "holitom",
        lambda clip: holitom(clip, 0.6, 0.3, 3),
        matcher={"name": "static-segments", "similarity": 0.6, "neighbours": 3},
        aggregator={"name": "centre-mean", "centre": 0.3},
    ),
}
"""Name → function of a seed → largest difference."""


if __name__ == "__main__":
    for name, of_seed in REFERENCES.items():
        print(f"{name:34s} {max(of_seed(seed) for seed in range(30)):.1e}")
