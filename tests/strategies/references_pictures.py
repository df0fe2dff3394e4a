"""Slow references of the methods for pictures: CDPruner, HiPrune, VScan, AutoPrune's budget.

Plain loops over Python lists, double precision, straight from papers and released codes, sharing no
code with the package. `REFERENCES` maps a name to a function of a seed that returns the largest
difference between method and reference, and infinity where other tokens survive.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from slow_encoder import D, by_score, compare, cos, drawn, gap, kept_of, run

from lightkv.core.contracts import StageContext
from lightkv.core.layout import VisionLayout
from lightkv.core.stage.functional import compress_stage
from lightkv.core.stage.stage import Stage

# -- CDPruner ----------------------------------------------------------------------------------


def relevance(tokens, words, sign):
    """Mean cosine with the words, brought to [0, 1]."""
    near = [sign * sum(cos(token, word) for word in words) / len(words) for token in tokens]
    low, high = min(near), max(near)
    return [(value - low) / (high - low) if high > low else 1.0 for value in near]


def outside(directions, chosen, i):
    """Squared length of what direction i has outside the span of the chosen ones."""
    if not chosen:
        return 1.0
    span = np.array([directions[j] for j in chosen]).T
    rest = directions[i] - span @ np.linalg.lstsq(span, directions[i], rcond=None)[0]
    return float(rest @ rest)


def dpp(tokens, quality, keep):
    """Greedy: the ratio of determinants is quality times what is outside the span, squared."""
    directions = [token / np.linalg.norm(token) for token in tokens]
    chosen = []
    for _ in range(keep):
        left = [i for i in range(len(tokens)) if i not in chosen]
        apart = {i: outside(directions, chosen, i) for i in left}
        live = [i for i in left if apart[i] > 1e-4]
        gain = [quality[i] * apart.get(i, 0.0) if live else quality[i] for i in range(len(tokens))]
        chosen.append(by_score(gain, live or left)[0])
    return chosen


def cdpruner(seed, sign="positive", text="behind", theta=0.5):
    rng, layout, encoder, ratio = drawn(seed)
    hidden = rng.normal(size=(layout.length, D))
    own = layout.token_index(torch.device("cpu")).flat.numpy()
    words = [
        hidden[i] for i in range(layout.length) if i not in own and (i > own[-1] or text == "all")
    ]
    tokens = [hidden[i] for i in own]
    r = relevance(tokens, words, 1 if sign == "positive" else -1)
    if theta < 1:
        r = [math.exp(theta / (2 * (1 - theta)) * value) for value in r]
    wanted = dpp(tokens, [value * value for value in r], kept_of(len(tokens), ratio))
    roles = {
        "partitioner": "whole",
        "scorer": {"name": "text-relevance", "sign": sign, "text": text},
        "matcher": {"name": "conditional-dpp", "theta": theta},
    }
    return gap(run(layout, encoder, hidden, ratio, roles), {i: tokens[i] for i in wanted})


# -- HiPrune -----------------------------------------------------------------------------------


def hiprune(seed, alpha=0.1):
    rng, layout, encoder, ratio = drawn(seed)
    _, rows, columns = layout.samples[0].views[0].grid
    object_layer = [sum(row) for row in encoder.attention(0.34)]
    deep = [sum(row) for row in encoder.attention(-2)]

    def around(i):
        row, column = divmod(i, columns)
        cells = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
        return [r * columns + c for r, c in cells if 0 <= r < rows and 0 <= c < columns]

    def reference(tokens):
        budget = kept_of(len(tokens), ratio)
        anchors = by_score(object_layer)[: round(budget * alpha / 5)]
        buffers = {j for i in anchors for j in around(i)} - set(anchors)
        chosen = anchors + by_score(deep, sorted(buffers))
        chosen += by_score(deep, [i for i in range(len(tokens)) if i not in chosen])
        return {i: tokens[i] for i in chosen[:budget]}

    roles = {
        "partitioner": "whole",
        "scorer": "class-attention",
        "matcher": {"name": "anchors-buffers-registers", "alpha": alpha},
    }
    return compare(rng, layout, encoder, ratio, roles, reference)


# -- VScan -------------------------------------------------------------------------------------


def cuts(length, count):
    """Band of each of `length` cells, the first bands one longer."""
    short, longer = divmod(length, count)
    sizes = [short + 1] * longer + [short] * (count - longer)
    return [band for band, size in enumerate(sizes) for _ in range(size)]


def vscan(seed, local=0.5, windows=2, partitioner="windows"):
    rng, layout, encoder, ratio = drawn(seed)
    _, rows, columns = layout.samples[0].views[0].grid
    shallow = [sum(row) / len(row) for row in encoder.attention(0.25)]
    deep = [sum(row) for row in encoder.attention(-2)]

    def scans(n):
        total = kept_of(n, ratio)
        chosen = by_score(deep)[: total - int(total * local)]
        members = {}
        down, across = cuts(rows, windows), cuts(columns, windows)
        for i in range(n):
            if i not in chosen:
                row, column = divmod(i, columns)
                key = (down[row], across[column]) if partitioner == "windows" else 0
                members.setdefault(key, []).append(i)
        queues = [by_score(shallow, own) for own in members.values()]
        while len(chosen) < total:
            heads = [queue.pop(0) for queue in queues if queue]
            chosen += by_score(shallow, sorted(heads))[: total - len(chosen)]
        return chosen

    def reference(tokens):
        groups = {i: [encoder.x[i]] for i in sorted(scans(len(tokens)))}
        for i in range(len(tokens)):
            if i not in groups and groups:
                near = {j: cos(encoder.x[i], encoder.x[j]) for j in groups}
                groups[max(near, key=lambda j: (near[j], -j))].append(encoder.x[i])
        return {i: encoder.projected(np.mean(group, axis=0)) for i, group in groups.items()}

    whole = {"name": "windows", "budget": "view"} if partitioner == "windows" else partitioner
    roles = {
        "partitioner": whole,
        "scorer": "class-attention",
        "matcher": {"name": "global-local", "local": local},
        "aggregator": {"name": "contextual", "combine": "mean"},
    }
    return compare(rng, layout, encoder, ratio, roles, reference, windows)


# -- AutoPrune ---------------------------------------------------------------------------------

SIDES, TEXTS, HEADS, HEAD_DIM = (3, 4, 5), (2, 3, 2, 4), 4, 4


def pictured(rng):
    """Spans of three square pictures between texts, their tokens, and the length of the row."""
    spans, own, start = [], [], 0
    for text, side in zip(TEXTS, SIDES, strict=False):
        start += text
        spans.append((start, (1, side, side)))
        own.append(list(range(start, start + side * side)))
        start += side * side
    return spans, own, start + TEXTS[-1]


def causal(query, key):
    """`[H][t][i]` causal attention, one softmax at a time."""
    heads, length, width = query.shape
    out = np.zeros((heads, length, length))
    for head in range(heads):
        for t in range(length):
            logits = [query[head, t] @ key[head, i] / math.sqrt(width) for i in range(t + 1)]
            powers = [math.exp(logit - max(logits)) for logit in logits]
            out[head, t, : t + 1] = [power / sum(powers) for power in powers]
    return out


def mutual_information(attention, text, tokens):
    """Bits between the text behind a picture and its tokens, mean over heads."""
    words, total = [t for t in text if t > tokens[-1]], 0.0
    for head in attention:
        for i in tokens:
            p_i = sum(head[t, i] for t in words) / len(words)
            for t in words:
                p = head[t, i] / len(words)
                total += p * math.log2(head[t, i] / p_i)
    return total / len(attention)


def logistic(k, depth, middle):
    return 1 / (1 + math.exp(k * (depth - middle)))


def autoprune(seed, depth=0.5, slope=12.8, sensitivity=204.8):
    rng = np.random.default_rng(seed)
    spans, own, length = pictured(rng)
    ratio = float(rng.uniform(0.1, 0.9))
    hidden = rng.normal(size=(length, D))
    sharp = rng.uniform(0.2, 3.0, size=(1, length, 1))
    query, key = rng.normal(size=(2, HEADS, length, HEAD_DIM))
    key = key * sharp
    attention = causal(query, key)
    seen = sorted(i for tokens in own for i in tokens)
    text = [t for t in range(length) if t not in seen]
    score = {i: sum(head[t, i] for head in attention for t in text if t > i) for i in seen}
    # What each picture claims: the height of its curve over its mean height.
    middle = 14.9 / 32
    claims = []
    for tokens in own:
        k = max(slope - sensitivity * mutual_information(attention, text, tokens), 0.0)
        mean = sum(logistic(k, (j + 0.5) / 2000, middle) for j in range(2000)) / 2000
        claims.append(len(tokens) * logistic(k, depth, middle) / mean)
    total = math.ceil(round(len(seen) * (1 - ratio), 6))
    exact = [total * claim / sum(claims) for claim in claims]
    quota = [math.floor(value) for value in exact]
    fraction = [round((value - whole) * 4096) for value, whole in zip(exact, quota, strict=True)]
    for p in by_score(fraction)[: total - sum(quota)]:
        quota[p] += 1
    wanted = []
    for tokens, count in zip(own, quota, strict=True):
        wanted += sorted(tokens, key=lambda i: (-score[i], i))[:count]
    spare = sorted((i for i in seen if i not in wanted), key=lambda i: (-score[i], i))
    wanted += spare[: total - len(wanted)]
    roles = {
        "partitioner": "pictures",
        "scorer": "causal-attention",
        "matcher": {"name": "complexity-budget", "slope": slope, "sensitivity": sensitivity},
        "aggregator": "drop",
    }
    result = compress_stage(
        torch.tensor(hidden, dtype=torch.float32)[None],
        VisionLayout.from_spans([spans], length=length),
        Stage.from_roles(roles, ratio=ratio, windows=None),
        query=torch.tensor(query, dtype=torch.float32)[None],
        key=torch.tensor(key, dtype=torch.float32)[None],
        context=StageContext(after_layer=round(100 * depth), num_layers=100, ratio=ratio),
    )
    index = result.layout.token_index(torch.device("cpu"))
    kept = [seen[i] for i in index.origin.tolist()]
    found = kept, result.hidden_states[0][index.flat].double().numpy()
    return gap(found, {i: hidden[i] for i in wanted})


REFERENCES = {
    "cdpruner": cdpruner,
    "cdpruner, sign: negative": lambda seed: cdpruner(seed, "negative"),
    "cdpruner, text: all": lambda seed: cdpruner(seed, text="all"),
    "cdpruner, theta: 1": lambda seed: cdpruner(seed, theta=1.0),
    "cdpruner, theta: 0": lambda seed: cdpruner(seed, theta=0.0),
    "hiprune": hiprune,
    "hiprune, alpha: 0.7": lambda seed: hiprune(seed, 0.7),
    "hiprune, alpha: 1": lambda seed: hiprune(seed, 1.0),
    "vscan": vscan,
    "vscan, local: 1": lambda seed: vscan(seed, 1.0, 3),
    "vscan, local: 0.3": lambda seed: vscan(seed, 0.3, 1),
    "vscan, one window": lambda seed: vscan(seed, partitioner="whole"),
    "autoprune": autoprune,
    "autoprune, early": lambda seed: autoprune(seed, 0.25, 12.8, 10.0),
    "autoprune, late": lambda seed: autoprune(seed, 0.75, 12.8, 10.0),
    "autoprune, flat": lambda seed: autoprune(seed, slope=0.0),
}
"""Name → function of a seed → largest difference."""
