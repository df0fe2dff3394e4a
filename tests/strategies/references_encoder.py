"""Slow references of the methods that read the vision encoder, written from the formulas.

Plain loops over Python lists and NumPy rows, one window at a time, sharing no code with the package.
`REFERENCES` maps a name to a function of a seed that returns the largest difference between method and
reference: over merged tokens, and infinity where other tokens survive.
"""

from __future__ import annotations

import math

import numpy as np
from slow_encoder import Encoder, H, by_score, compare, cos, drawn, kept_of

from lightkv.core.layout import SampleLayout, View, VisionLayout

# -- FasterVLM, VisPruner ----------------------------------------------------------------------


def fastervlm(seed, heads="mean", layer=-2):
    rng, layout, encoder, ratio = drawn(seed)

    def reference(tokens):
        a = encoder.attention(layer)
        score = [sum(row) / len(row) if heads == "mean" else sum(row) for row in a]
        return {i: tokens[i] for i in by_score(score)[: kept_of(len(tokens), ratio)]}

    roles = {
        "partitioner": "whole",
        "scorer": {"name": "class-attention", "heads": heads, "layer": layer},
        "matcher": {"name": "top-k", "rounding": "round"},
    }
    return compare(rng, layout, encoder, ratio, roles, reference)


def vispruner(seed, important=0.5, step=8):
    rng, layout, encoder, ratio = drawn(seed)

    def reference(tokens):
        score = [sum(row) / H for row in encoder.attention(-2)]
        total = kept_of(len(tokens), ratio)
        order = by_score(score)
        chosen = order[: int(total * important)]
        rest, diverse = order[len(chosen) :], total - len(chosen)
        while len(rest) > diverse and diverse:
            even, odd = rest[0::2], rest[1::2]
            near = [max(cos(encoder.x[a], encoder.x[b]) for b in odd) for a in even]
            gone = min(step, len(rest) - diverse, len(even))
            rest = [even[i] for i in by_score(near)[gone:]] + odd
        return {i: tokens[i] for i in chosen + (rest if diverse else [])}

    roles = {
        "partitioner": "whole",
        "scorer": "class-attention",
        "matcher": {"name": "deduplicate", "important": important, "step": step},
    }
    return compare(rng, layout, encoder, ratio, roles, reference)


# -- DivPrune ----------------------------------------------------------------------------------


def divprune(seed, join=False):
    rng, layout, encoder, ratio = drawn(seed)

    def reference(tokens):
        n = len(tokens)
        far = [[1 - cos(a, b) for b in tokens] for a in tokens]
        chosen = []
        for _ in range(kept_of(n, ratio)):
            others = chosen or range(n)
            value = [min(far[i][j] for j in others if j != i or chosen) for i in range(n)]
            chosen.append(by_score(value, [i for i in range(n) if i not in chosen])[0])
        if not join:
            return {i: tokens[i] for i in chosen}
        groups = {i: [tokens[i]] for i in chosen}
        for i in set(range(n)) - set(chosen):
            groups[min(chosen, key=lambda c: far[i][c])].append(tokens[i])
        return {i: np.mean(group, axis=0) for i, group in groups.items()}

    roles = {
        "partitioner": {"name": "whole", "scope": "image"},
        "scorer": "uniform",
        "matcher": {"name": "farthest-first", "join": join},
        "aggregator": "weighted-mean" if join else "drop",
    }
    return compare(rng, layout, encoder, ratio, roles, reference)


# -- VisionZip ---------------------------------------------------------------------------------


def visionzip(seed, combine="sum", contextual=5 / 32):
    rng, layout, encoder, ratio = drawn(seed)

    def reference(tokens):
        n = len(tokens)
        score = [sum(row) for row in encoder.attention(-2)]
        total = kept_of(n, ratio)
        count = round(total * contextual)
        dominant = by_score(score)[: total - count]
        out = {i: encoder.projected(encoder.x[i]) for i in dominant}
        rest = [i for i in range(n) if i not in dominant]
        if not count:
            return out
        step = max(1, len(rest) // count)
        targets = [rest[j * step] for j in range(count)]
        metric = encoder.key[0, 1:].mean(axis=1)
        groups = {target: [] for target in targets}
        for i in rest:
            if i not in groups:
                near = [cos(metric[i], metric[t]) for t in targets]
                groups[targets[near.index(max(near))]].append(encoder.x[i])
        for target, joined in groups.items():
            x = encoder.x[target]
            if combine == "mean":
                x = np.mean([x, *joined], axis=0)
            elif joined:
                x = x + np.mean(joined, axis=0)
            out[target] = encoder.projected(x)
        return out

    roles = {
        "partitioner": "whole",
        "scorer": {"name": "class-attention", "heads": "sum"},
        "matcher": {"name": "dominant-contextual", "contextual": contextual},
        "aggregator": {"name": "contextual", "combine": combine},
    }
    return compare(rng, layout, encoder, ratio, roles, reference)


# -- PruMerge ----------------------------------------------------------------------------------


def quartile(values, share):
    """Linear between the two neighbours."""
    values = sorted(values)
    place = share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def outlier_choice(a, most, spatial):
    """The released code's tokens, at most `most`: outliers by score, then even distances."""
    n, q1, q3 = len(a), quartile(a, 0.25), quartile(a, 0.75)
    number = sum(value > q3 + 1.5 * (q3 - q1) for value in a)
    chosen = by_score(a)[:number]
    if spatial:
        step = max(1, int(n / max(1, number)) // 3)
        extra = [i for i in range(0, n - 1, step) if i not in chosen]
        chosen += by_score(a, extra)
    return chosen[:most]


def static_choice(a, count, spatial):
    n, first = len(a), math.ceil(count / 4) if spatial else count
    chosen = by_score(a)[:first]
    left = [i for i in range(n) if i not in chosen]
    rest = count - first
    return chosen + [left[j * len(left) // rest] for j in range(rest)]


def prumerge(seed, spatial=False, budget="static", summary=True, normalize="none", neighbours=32):
    rng, layout, encoder, ratio = drawn(seed)
    if budget == "outliers":
        # A few patches that the class token likes a lot, so that there are outliers.
        some = rng.integers(1, encoder.patches + 1, size=3)
        encoder.key[0, some] += encoder.query[0] * 1.5
    a = [row[0] for row in encoder.attention(-1, joint=True)]
    x, key = encoder.x, encoder.key[0, 1:].reshape(encoder.patches, -1)

    def reference(tokens):
        n = len(tokens)
        total = kept_of(n, ratio)
        if total in (0, n):
            return {i: tokens[i] for i in range(total)}
        if budget == "outliers":
            wanted = len(outlier_choice(a, n, spatial)) + summary
            total = min(total, max(1, wanted))
            chosen = outlier_choice(a, total - summary, spatial) or (
                [] if summary else by_score(a)[:1]
            )
        else:
            chosen = static_choice(a, total - summary, spatial)
        out = {}
        for i in chosen:
            near = [cos(key[i], key[j]) for j in range(n)]
            around = by_score(near, [j for j in range(n) if j != i])[:neighbours]
            total_x, mass = sum(a[j] * x[j] for j in around), sum(a[j] for j in around)
            if normalize == "mean":
                out[i] = (a[i] * x[i] + total_x) / (a[i] + mass)
            else:
                out[i] = x[i] + total_x
        if summary:
            rest = [j for j in range(n) if j not in chosen]
            whole = sum(a[j] * x[j] for j in rest)
            out[by_score(a, rest)[0]] = (
                whole / sum(a[j] for j in rest) if normalize == "mean" else whole
            )
        return {i: encoder.projected(row) for i, row in out.items()}

    roles = {
        "partitioner": "whole",
        "scorer": {"name": "class-attention", "layer": -1, "heads": "joint"},
        "matcher": {
            "name": "class-outliers",
            "spatial": spatial,
            "budget": budget,
            "summary": summary,
        },
        "aggregator": {"name": "neighbour-sum", "normalize": normalize, "neighbours": neighbours},
    }
    return compare(rng, layout, encoder, ratio, roles, reference)


# -- HiRED -------------------------------------------------------------------------------------


def tiled(rng, side, down, across, cut):
    """Base view of side² and an unpadded grid of tiles, in the order of the sequence."""
    rows, columns = down * side - 2 * cut[0], across * side - 2 * cut[1]
    base = View.from_span(1, (1, side, side))
    grid = View.from_span(1 + side * side, (1, rows, columns))
    length = 1 + side * side + rows * columns + 4
    layout = VisionLayout(length, (SampleLayout((base, grid)),))
    encoder = Encoder(rng, 1, side * side + rows * columns)
    return layout, encoder, (rows, columns)


def hired(seed, measure="mass", base="region", remainders="largest", alpha=0.5):
    rng = np.random.default_rng(seed)
    side, down, across = (int(rng.integers(low, high)) for low, high in ((3, 6), (1, 4), (1, 3)))
    # As much padding as a whole tile would have been another canvas.
    cut = (int(rng.integers(0, (side - 1) // 2 + 1)), 0)
    if down == 1:
        cut = (0, 0)
    layout, encoder, (rows, columns) = tiled(rng, side, down, across, cut)
    ratio = float(rng.uniform(0.1, 0.95))
    claim = [sum(row) for row in encoder.attention(0)]
    score = [sum(row) for row in encoder.attention(-2)]

    def tile_at(row, column):
        return (row + cut[0]) // side * across + (column + cut[1]) // side

    def reference(tokens):
        n, first, tiles = len(tokens), side * side, down * across
        total = math.floor(round(n * (1 - ratio), 6))
        full = min(int(total * alpha), first)
        own = {t: [] for t in range(tiles)}
        for p in range(n - first):
            own[tile_at(p // columns, p % columns)].append(first + p)
        claims = [0.0] * tiles
        counted = by_score(claim, range(first))[: int(first * (1 - alpha) + 1e-4)]
        for p in range(first):
            if base == "strips":
                t = p * tiles // first
            else:
                y, x = (p // side + 0.5) / side, (p % side + 0.5) / side
                t = tile_at(int(y * rows + 1e-9), int(x * columns + 1e-9))
            if measure == "mass":
                claims[t] += claim[p]
            elif p in counted:
                claims[t] += 1
        exact = [(total - full) * c / (sum(claims) or 1) for c in claims]
        quota = [math.floor(e + 1e-9) for e in exact]
        if remainders == "largest":
            # Fractions are compared in steps, because those of counts are often equal.
            parts = zip(exact, quota, claims, strict=True)
            fraction = [round((e - q) * 4096) if c else -1 for e, q, c in parts]
            for t in by_score(fraction)[: total - full - sum(quota)]:
                quota[t] += claims[t] > 0
        chosen = by_score(score, range(first))[:full]
        for t in range(tiles):
            chosen += by_score(score, own[t])[: quota[t]]
        if remainders == "largest":
            spare = [i for i in range(n) if i not in chosen]
            chosen += by_score(score, spare)[: total - len(chosen)]
        return {i: tokens[i] for i in chosen}

    roles = {
        "partitioner": {"name": "tiles", "base": base},
        "scorer": {"name": "class-attention", "heads": "sum"},
        "matcher": {
            "name": "tile-budget",
            "measure": measure,
            "remainders": remainders,
            "alpha": alpha,
        },
    }
    return compare(rng, layout, encoder, ratio, roles, reference)


def hired_without_tiles(seed):
    rng, layout, encoder, ratio = drawn(seed)

    def reference(tokens):
        score = [sum(row) for row in encoder.attention(-2)]
        return {
            i: tokens[i] for i in by_score(score)[: math.floor(round(len(tokens) * (1 - ratio), 6))]
        }

    roles = {
        "partitioner": "tiles",
        "scorer": {"name": "class-attention", "heads": "sum"},
        "matcher": "tile-budget",
    }
    return compare(rng, layout, encoder, ratio, roles, reference)


REFERENCES = {
    "fastervlm": fastervlm,
    "fastervlm, heads: sum, layer: 0": lambda seed: fastervlm(seed, "sum", 0),
    "vispruner": vispruner,
    "vispruner, important: 0.2, step: 3": lambda seed: vispruner(seed, 0.2, 3),
    "divprune": divprune,
    "divprune, the rest joins": lambda seed: divprune(seed, join=True),
    "visionzip": visionzip,
    "visionzip, combine: mean": lambda seed: visionzip(seed, "mean"),
    "visionzip, contextual: 0.5": lambda seed: visionzip(seed, "sum", 0.5),
    "prumerge": prumerge,
    "prumerge, neighbours: 3": lambda seed: prumerge(seed, neighbours=3),
    "prumerge, normalize: mean": lambda seed: prumerge(seed, normalize="mean", neighbours=5),
    "prumerge, summary: false": lambda seed: prumerge(seed, summary=False),
    "prumerge, budget: outliers": lambda seed: prumerge(seed, budget="outliers"),
    "prumerge, budget: outliers, summary: false": lambda seed: prumerge(
        seed, budget="outliers", summary=False
    ),
    "prumerge-plus": lambda seed: prumerge(seed, spatial=True),
    "prumerge-plus, budget: outliers": lambda seed: prumerge(seed, spatial=True, budget="outliers"),
    "hired": hired,
    "hired, alpha: 0.2": lambda seed: hired(seed, alpha=0.2),
    "hired, measure: count": lambda seed: hired(seed, "count"),
    "hired, base: strips": lambda seed: hired(seed, base="strips"),
    "hired, remainders: lost": lambda seed: hired(seed, remainders="lost"),
    "hired, released code": lambda seed: hired(seed, "count", "strips", "lost"),
    "hired, one view": hired_without_tiles,
}
"""Name → function of a seed → largest difference."""
