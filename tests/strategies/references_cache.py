"""Slow references of the strategies on the cache, straight from their definitions, in NumPy.

Each `*_difference` runs lightkv and the reference on one random layer, asserts that both keep exactly
the same entries, and returns the largest difference of keys and values.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from lightkv.core.attention import QueryKeyView
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.layout import VisionLayout
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.prompt import prompt_index
from lightkv.core.run.engine import Engine

HEADS, KV_HEADS, WIDTH, LAYERS = 4, 2, 4, 3
SHAPE = DecoderShape(LAYERS, 16, HEADS, KV_HEADS, WIDTH, 32, 50)


def compressed(preset, ratio, *, seed=0, scope=None, layer=1, texts=(3, 5), side=5):
    """Query, key and value of a row, the indices that are kept, and what they became."""
    rng = torch.Generator().manual_seed(seed)
    length = texts[0] + side * side + texts[1]
    layout = VisionLayout.from_spans([[(texts[0], (1, side, side))]], length=length)
    query = torch.randn(1, HEADS, length, WIDTH, generator=rng)
    key, value = (torch.randn(1, KV_HEADS, length, WIDTH, generator=rng) for _ in range(2))
    stage = {"site": "cache", "ratio": ratio, **({"scope": scope} if scope else {})}
    engine = Engine(Pipeline.build(preset, LAYERS, schedule=[stage]), SHAPE)
    prefill = engine.begin(layout)
    if prefill.cache_needs():
        prompt = prompt_index(layout, key.device)
        prefill.read_cache_attention(layer, QueryKeyView(query, key, WIDTH**-0.5, prompt))
    keys, values = prefill.compress_cache(layer, key, value)
    kept = prefill.cached[layer].kept[0].numpy()
    given = tuple(t[0].double().numpy() for t in (query, key, value))
    return given, kept, (keys[0].double().numpy(), values[0].double().numpy())


def check(kept, wanted, found, expected):
    assert kept.tolist() == sorted(wanted), "other survivors"
    return max(float(np.abs(f - e).max()) for f, e in zip(found, expected, strict=True))


def rand_difference(ratio, seed=0, *, preset="rand"):
    """The last entry of all stays, of L others ⌊b·L⌋; Rand: the last max(1, ⌊0.1·b·(L + 1)⌋) always."""
    scope = "all" if preset == "rand" else None
    (_, key, value), kept, found = compressed(preset, ratio, seed=seed, scope=scope)
    length, budget = key.shape[1], 1 - ratio
    part = list(range(length)) if scope else list(range(3, 28))
    # The noise: a generator seeded by seed 0, run 0, stage 0 and layer 1, drawn by raster rank.
    rng = torch.Generator().manual_seed(0 * 10_007 + 1 + 1)
    noise = torch.rand(length, generator=rng).numpy()[: len(part)].tolist()
    recent = max(1, int(0.1 * budget * len(part))) if scope else 0
    for place in range(len(part) - recent, len(part)):
        noise[place] += 1
    part = part[: len(part) - bool(scope)]
    order = sorted(range(len(part)), key=lambda i: (-noise[i], i))
    stay = {part[i] for i in order[: math.floor(round(budget * len(part), 6))]}
    stay |= {length - 1}
    wanted = sorted(stay | (set(range(length)) - set(part)))
    assert not scope or set(range(length - recent, length)) <= stay
    return check(kept, wanted, found, (key[:, wanted], value[:, wanted]))


def elastic_difference(ratio, seed=0):
    """Anchors of largest column sums; everything else joins the nearest one, plain means.

    The last entry of all stays as it is and is no part of this.
    """
    (query, key, value), kept, found = compressed("elastic-cache", ratio, seed=seed, scope="all")
    length = key.shape[1]
    sums = np.zeros(length)
    for head in range(HEADS):
        for row in range(length):
            logits = key[head // 2, : row + 1] @ query[head, row] / math.sqrt(WIDTH)
            weight = np.exp(logits - logits.max())
            sums[: row + 1] += weight / weight.sum() / HEADS
    count = length - 1
    order = sorted(range(count), key=lambda i: (i > 0, -sums[i], i))
    anchors = sorted(order[: count - int(ratio * count)])
    buckets = {anchor: [] for anchor in anchors}
    for place in range(count):
        buckets[min(anchors, key=lambda a: (abs(a - place), a))].append(place)
    anchors.append(count)
    buckets[count] = [count]
    expected = tuple(
        np.stack([each[:, buckets[a]].mean(axis=1) for a in anchors], axis=1)
        for each in (key, value)
    )
    return check(kept, anchors, found, expected)


def tome_difference(ratio, seed=0):
    """Rounds of bipartite merging on the head mean of the keys, at most half in each."""
    (_, key, value), kept, found = compressed("tome-cache", ratio, seed=seed)
    # Of the image: place, key, value, size.
    items = [(i, key[:, i], value[:, i], 1.0) for i in range(3, 28)]
    left = 1.0
    while True:
        share = 0.5 if left * 0.5 > 1 - ratio + 1e-9 else 1 - (1 - ratio) / left
        items = _merge_round(items, min(int(share * len(items) + 1e-9), len(items) // 2))
        left *= 1 - share
        if share < 0.5 or left <= 1 - ratio + 1e-9:
            break
    merged = {place: (k, v) for place, k, v, _ in items}
    wanted = sorted({*range(3), *merged, *range(28, key.shape[1])})
    expected = tuple(
        np.stack([merged[i][n] if i in merged else each[:, i] for i in wanted], axis=1)
        for n, each in enumerate((key, value))
    )
    return check(kept, wanted, found, expected)


def _merge_round(items, count):
    metric = [k.mean(axis=0) for _, k, _, _ in items]
    metric = [m / np.linalg.norm(m) for m in metric]
    pairs = []
    for a in range(0, len(items), 2):
        near = {b: float(metric[a] @ metric[b]) for b in range(1, len(items), 2)}
        best = max(near, key=lambda b: (near[b], -b))
        pairs.append((-near[best], a, best))
    joins = {a: b for _, a, b in sorted(pairs)[:count]}
    out = []
    for number, (place, *_) in enumerate(items):
        if number in joins:
            continue
        group = [number, *(a for a, b in joins.items() if b == number)]
        size = sum(items[i][3] for i in group)
        k, v = (sum(items[i][n] * items[i][3] for i in group) / size for n in (1, 2))
        out.append((place, k, v, size))
    return out


REFERENCES = {
    "rand": lambda seed: rand_difference(0.45, seed),
    "imgrand": lambda seed: rand_difference(0.45, seed, preset="imgrand"),
    "tome-cache": lambda seed: tome_difference(0.6, seed),
    "elastic-cache": lambda seed: elastic_difference(0.45, seed),
}
"""Preset → largest difference from its reference for a seed (benchmarks/strategy_table.py)."""
