"""Slow references of the decoder-side methods: plain loops, straight from papers and released codes.

Nothing here calls a component. Each reference takes a `Setup` and returns {vision token: vector} of
the survivors, in float64. `references.py` compares them with the strategies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

WIDTH, HEADS, KV_HEADS, HEAD_DIM = 12, 4, 2, 4
BEFORE, AFTER = 3, 7
GRIDS = ((4, 4), (5, 7), (9, 9), (12, 16), (3, 1))
RATIOS = (0.25, 0.4, 0.5, 0.85)


@dataclass
class Setup:
    """One row: `BEFORE` text tokens, an image, `AFTER` text tokens."""

    grid: tuple[int, int]
    ratio: float
    seed: int
    layer: int = 0
    layers: int | None = None

    def __post_init__(self):
        random = np.random.default_rng(self.seed)
        self.count = self.grid[0] * self.grid[1]
        self.length = BEFORE + self.count + AFTER
        # A few directions and noise, so that some tokens are alike.
        directions = random.normal(size=(6, WIDTH))
        chosen = directions[random.integers(0, 6, size=self.length)]
        hidden = chosen + 0.6 * random.normal(size=chosen.shape)
        self.hidden = hidden.astype(np.float32)
        self.start = (0.5 * random.normal(size=hidden.shape)).astype(np.float32)
        self.query = random.normal(size=(HEADS, self.length, HEAD_DIM)).astype(np.float32)
        self.key = random.normal(size=(KV_HEADS, self.length, HEAD_DIM)).astype(np.float32)
        self.size = random.integers(1, 5, size=self.count).astype(np.float32)

    @property
    def tokens(self):
        return self.hidden[BEFORE : BEFORE + self.count].astype(np.float64)

    def removed(self, most=1.0):
        return min(math.floor(self.ratio * self.count + 1e-9), math.floor(most * self.count + 1e-9))

    def attention(self):
        """Causal probabilities [H, N, N]: small here, so the whole matrix is formed."""
        out = np.zeros((HEADS, self.length, self.length))
        for head in range(HEADS):
            key = self.key[head // (HEADS // KV_HEADS)].astype(np.float64)
            for row in range(self.length):
                logits = key[: row + 1] @ self.query[head, row].astype(np.float64)
                weight = np.exp(logits / math.sqrt(HEAD_DIM) - (logits / math.sqrt(HEAD_DIM)).max())
                out[head, row, : row + 1] = weight / weight.sum()
        return out


def setups(most=0.5, **more):
    ratios = [ratio for ratio in RATIOS if ratio <= most]
    for number, grid in enumerate(GRIDS):
        for ratio in ratios:
            yield Setup(grid, ratio, seed=17 * number + int(100 * ratio), **more)


# -- pieces ------------------------------------------------------------------------------------


def cos(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-8))


def first_max(values):
    return max(range(len(values)), key=lambda i: (values[i], -i))


def by_score(score):
    """Indices from the most important on, lower index first among equals."""
    return sorted(range(len(score)), key=lambda i: (-score[i], i))


def weighted(setup, groups, weight):
    """Survivors of {survivor: members} as weighted means."""
    out = {}
    for survivor, members in groups.items():
        mass = sum(weight[i] for i in members)
        out[survivor] = sum(weight[i] / mass * setup.tokens[i] for i in members)
    return out


def even_odd(setup, removed):
    """{survivor: members} of ToMe's matching."""
    tokens, count = setup.tokens, setup.count
    proposals = []
    for source in range(0, count, 2):
        near = [cos(tokens[source], tokens[into]) for into in range(1, count, 2)]
        if near:
            best = first_max(near)
            proposals.append((-near[best], source, 2 * best + 1))
    groups = {i: [i] for i in range(count)}
    for _, source, into in sorted(proposals)[:removed]:
        groups[into].append(source)
        del groups[source]
    return groups


# -- PiToMe ------------------------------------------------------------------------------------


def energy(setup, branch, alpha, margin):
    tokens, out = setup.tokens, []
    for i in range(setup.count):
        total = 0.0
        for j in range(setup.count):
            c = cos(tokens[i], tokens[j])
            if c >= margin:
                total += c if branch == "paper" else c - margin
            else:
                total += alpha * (math.exp(c - margin) - 1)
        out.append(total / setup.count)
    return out


def pitome(setup, branch="paper", alpha=1.0, margin=0.9, slope=0.9):
    removed = setup.removed(0.5)
    depth = setup.layer / setup.layers if setup.layers else 0.0
    ranked = by_score(energy(setup, branch, alpha, margin - slope * depth))[: 2 * removed]
    sources, into = ranked[0::2], ranked[1::2]
    groups = {i: [i] for i in range(setup.count) if i not in sources}
    for source in sources:
        near = [cos(setup.tokens[source], setup.tokens[b]) for b in into]
        groups[into[first_max(near)]].append(source)
    return weighted(setup, groups, setup.size.astype(np.float64))


# -- ToFu --------------------------------------------------------------------------------------


def tofu(setup, divisor="mean"):
    out = {}
    prunes = setup.layers is not None and setup.layer <= setup.layers // 2
    for survivor, members in even_odd(setup, setup.removed(0.5)).items():
        old = setup.tokens[survivor]
        if prunes or len(members) == 1:
            out[survivor] = old
            continue
        mean = sum(setup.tokens[i] for i in members) / len(members)
        below = np.linalg.norm(mean if divisor == "mean" else old)
        out[survivor] = mean / below * max(np.linalg.norm(setup.tokens[i]) for i in members)
    return out


# -- PyramidDrop -------------------------------------------------------------------------------


def pyramiddrop(setup):
    row = setup.attention()[:, -1].mean(axis=0)[BEFORE : BEFORE + setup.count]
    kept = setup.count - math.ceil(setup.ratio * setup.count - 1e-9)
    return {i: setup.tokens[i] for i in by_score(row)[:kept]}


# -- SparseVLM ---------------------------------------------------------------------------------


def raters(setup, strict=True):
    text = range(BEFORE + setup.count, setup.length)
    start = setup.start.astype(np.float64)
    relevance = np.zeros(len(text))
    for v in range(BEFORE, BEFORE + setup.count):
        product = np.array([start[v] @ start[t] for t in text])
        share = np.exp(product - product.max())
        relevance += share / share.sum() / setup.count
    mean = relevance.mean()
    return [t for t, r in zip(text, relevance, strict=True) if (r > mean if strict else r >= mean)]


def rater_rows(setup, strict=True):
    """[raters, n] attention to the vision tokens, mean over heads."""
    rows = setup.attention()[:, raters(setup, strict)].mean(axis=0)
    return rows[:, BEFORE : BEFORE + setup.count]


def clusters_of(pruned):
    return int((int(0.3 * pruned) + 1) / 10) + 1


def cluster_groups(tokens, members, count, assign):
    """{centre: members} of density peaks; members are listed from the most important on."""
    apart = {
        (i, j): float(np.linalg.norm(tokens[i] - tokens[j])) / math.sqrt(WIDTH)
        for i in members
        for j in members
    }
    density = {}
    for i in members:
        nearest = sorted(apart[i, j] for j in members)[:count]
        density[i] = math.exp(-sum(d * d for d in nearest) / len(nearest))
    order = {i: place for place, i in enumerate(members)}
    peak = {}
    for i in members:
        denser = [
            apart[i, j]
            for j in members
            if density[j] > density[i] or (density[j] == density[i] and order[j] < order[i])
        ]
        peak[i] = density[i] * (min(denser) if denser else max(apart.values()))
    centres = sorted(members, key=lambda i: (-peak[i], order[i]))[:count]
    groups = {c: [c] for c in centres}
    for i in members:
        if i in groups:
            continue
        if assign == "cosine":
            near = [cos(tokens[i], tokens[c]) for c in centres]
        else:
            near = [-float(np.linalg.norm(tokens[i] - tokens[c])) for c in centres]
        groups[centres[first_max(near)]].append(i)
    return groups


def sparsevlm(setup, strict=True, assign="euclidean", merge="mean", scale=None):
    rows = rater_rows(setup, strict)
    survivors = setup.count - setup.removed()
    if scale is not None:
        rank = np.linalg.matrix_rank(rows)
        pruned = math.floor(scale * (setup.count - rank))
        wanted = setup.count if not pruned else setup.count - pruned + clusters_of(pruned)
        survivors = min(survivors, wanted)
    if survivors == setup.count:
        return dict(enumerate(setup.tokens))
    splits = [t for t in range(survivors) if t + clusters_of(setup.count - t) == survivors]
    kept = max(splits, default=0)
    count = survivors - kept
    ranked = by_score(rows.mean(axis=0))
    pruned = setup.count - kept
    recycled = ranked[kept : kept + max(count, min(pruned, int(0.3 * pruned) + 1))]
    out = {i: setup.tokens[i] for i in ranked[:kept]}
    if count == 0:
        return out
    for centre, members in cluster_groups(setup.tokens, recycled, count, assign).items():
        total = sum(setup.tokens[i] for i in members)
        out[centre] = total if merge == "sum" else total / len(members)
    return out


# -- DART --------------------------------------------------------------------------------------


def dart_pivots(setup):
    """Vision pivots (token numbers, ascending, strongest four) and the vectors of all pivots."""
    norm = np.abs(setup.key.astype(np.float64)).sum(axis=(0, 2))
    vision = by_score(norm[BEFORE : BEFORE + setup.count])[:4]
    after = BEFORE + setup.count
    text = sorted(after + i for i in by_score(norm[after:])[:4])
    return vision, text


def dart(setup, threshold=None):
    keep = setup.count - setup.removed()
    strongest, text = dart_pivots(setup)
    tokens = setup.tokens
    if threshold is None:
        strongest = strongest[:keep]
    vectors = [tokens[i] for i in sorted(strongest)] + [setup.hidden[t].astype(float) for t in text]
    near = [[cos(vector, token) for token in tokens] for vector in vectors]
    if threshold is not None:
        worst = [max(row[i] for row in near) for i in range(setup.count)]
        others = [i for i in range(setup.count) if i not in strongest and worst[i] < threshold]
        others.sort(key=lambda i: (worst[i], i))
        return {i: tokens[i] for i in (strongest + others)[:keep]}
    taken = list(strongest)
    each, more = divmod(keep - len(strongest), len(vectors))
    for number, row in enumerate(near):
        free = [i for i in range(setup.count) if i not in taken]
        free.sort(key=lambda i: (row[i], i))
        taken += free[: each + (number < more)]
    return {i: tokens[i] for i in taken}


# -- this project's own ------------------------------------------------------------------------


def last_token(setup):
    return setup.attention()[:, -1].mean(axis=0)[BEFORE : BEFORE + setup.count]


def rolled_attention(setup):
    """Attention of every text token, weighted by the last token's attention to it."""
    rows = setup.attention().mean(axis=0)
    text = [*range(BEFORE), *range(BEFORE + setup.count, setup.length)]
    total = sum(rows[-1, j] * rows[j] for j in text)
    return total[BEFORE : BEFORE + setup.count]


def adaptive(setup, divergence):
    """Bipartite matching that also merges every source within the divergence."""
    proposals = []
    for source in range(0, setup.count, 2):
        into = list(range(1, setup.count, 2))
        near = [cos(setup.tokens[source], setup.tokens[i]) for i in into]
        if near:
            best = first_max(near)
            proposals.append((-near[best], source, into[best]))
    redundant = sum(1 + cost <= divergence for cost, _, _ in proposals)
    removed = max(min(setup.removed(), setup.count // 2), min(redundant, setup.count // 2))
    groups = {i: [i] for i in range(setup.count)}
    for _, source, best in sorted(proposals)[:removed]:
        groups[best].append(source)
        del groups[source]
    return weighted(setup, groups, rolled_attention(setup))


def guided(setup, protect=0.0, split="alternate"):
    score = last_token(setup) / last_token(setup).mean()
    safe = set(by_score(score)[: math.floor(protect * setup.count + 1e-9)])
    free = [i for i in range(setup.count) if i not in safe]
    sources = free[0::2]
    if split == "importance":
        sources = sorted(by_score(score)[setup.count - setup.count // 2 :])
    into = [i for i in range(setup.count) if i not in sources]
    removed = min(setup.removed(), len(free) // 2)
    proposals = []
    for a in sources:
        cost = [(1 - cos(setup.tokens[a], setup.tokens[b])) * (score[a] + score[b]) for b in into]
        if cost:
            best = first_max([-c for c in cost])
            proposals.append((cost[best], a, into[best]))
    groups = {i: [i] for i in range(setup.count)}
    for _, source, best in sorted(proposals)[:removed]:
        groups[best].append(source)
        del groups[source]
    return weighted(setup, groups, score)


def protected(setup, share):
    """Bipartite matching of the tokens that are not protected."""
    score = last_token(setup)
    safe = by_score(score)[: math.floor(share * setup.count + 1e-9)]
    free = [i for i in range(setup.count) if i not in safe]
    proposals = []
    for source in free[0::2]:
        near = [cos(setup.tokens[source], setup.tokens[into]) for into in free[1::2]]
        if near:
            best = first_max(near)
            proposals.append((-near[best], source, free[1::2][best]))
    groups = {i: [i] for i in range(setup.count)}
    for _, source, into in sorted(proposals)[: min(setup.removed(), len(free) // 2)]:
        groups[into].append(source)
        del groups[source]
    return weighted(setup, groups, score)


def gathered(setup):
    """Top-k, and one summary of all that it drops, weighted by importance."""
    score = last_token(setup)
    keep = max(1, math.ceil(round(setup.count * (1 - setup.ratio), 6)))
    ranked = by_score(score)
    groups = {i: [i] for i in ranked[: keep - 1]}
    groups[ranked[keep - 1]] = ranked[keep - 1 :]
    return weighted(setup, groups, score)


def mixed_means(setup, mix):
    """Bipartite matching with weights mixed from two scores."""
    one = last_token(setup)
    two = setup.size.astype(np.float64)
    weight = mix(one / one.mean(), two / two.mean())
    return weighted(setup, even_odd(setup, setup.removed(0.5)), weight)
