"""A vision encoder of random numbers read by loops, and the comparison of a stage with a reference."""

from __future__ import annotations

import math

import numpy as np
import torch

from lightkv.core.encoder import VisionView
from lightkv.core.layout import SampleLayout, View, VisionLayout
from lightkv.core.stage.functional import compress_stage
from lightkv.core.stage.stage import Stage

D, DV, H, HD = 8, 6, 3, 4


class Encoder(VisionView):
    """Random encoder outputs of images of P patches, and the loops that read them."""

    def __init__(self, rng, images, patches):
        self.images, self.patches = images, patches
        self.query = rng.normal(size=(images, H, HD))
        self.key = rng.normal(size=(images, 1 + patches, H, HD))
        self.early = rng.normal(size=(images, 1 + patches, H, HD))
        self.x = rng.normal(size=(images * patches, DV))
        self.weights = rng.normal(size=(DV, D))

    def of(self, layer):
        return self.early if layer == 0 or isinstance(layer, float) else self.key

    def row(self, layer, image, head):
        """Softmax of the class token's row over class token and patches, one head."""
        key, query = self.of(layer)[image], self.query[image]
        if head is None:
            logits = [sum(query.ravel() * k.ravel()) / math.sqrt(H * HD) for k in key]
        else:
            logits = [sum(query[head] * k[head]) / math.sqrt(HD) for k in key]
        top = max(logits)
        powers = [math.exp(logit - top) for logit in logits]
        return [power / sum(powers) for power in powers]

    def attention(self, layer, joint=False):
        """`[V₀]` lists of each head's attention."""
        out = []
        for image in range(self.images):
            rows = [self.row(layer, image, h) for h in ([None] if joint else range(H))]
            out += [[row[1 + p] for row in rows] for p in range(self.patches)]
        return out

    # What the package sees.

    def cls_attention(self, layer, *, split=True):
        return torch.tensor(self.attention(layer, joint=not split), dtype=torch.float32)

    def keys(self, layer):
        return torch.tensor(self.of(layer)[:, 1:].reshape(-1, H, HD), dtype=torch.float32)

    def cls_query(self, layer):
        return torch.tensor(np.repeat(self.query, self.patches, axis=0), dtype=torch.float32)

    def features(self):
        return torch.tensor(self.x, dtype=torch.float32)

    def project(self, features):
        return torch.tanh(features @ torch.tensor(self.weights, dtype=torch.float32))

    def projected(self, row):
        return np.tanh(np.asarray(row) @ self.weights)


def cos(a, b):
    return float(np.dot(a, b) / math.sqrt(np.dot(a, a) * np.dot(b, b)))


def by_score(score, among=None):
    """Indices in falling score, the lower one first among equals."""
    return sorted(range(len(score)) if among is None else among, key=lambda i: (-score[i], i))


def single(rng, rows, columns):
    """One image of one view, and the encoder of it."""
    view = View.from_span(2, (1, rows, columns))
    n = rows * columns
    layout = VisionLayout(n + 5, (SampleLayout((view,)),))
    return layout, Encoder(rng, 1, n)


def run(layout, encoder, hidden, ratio, roles, windows=None):
    stage = Stage.from_roles({"aggregator": "drop", **roles}, ratio=ratio, windows=windows)
    given = torch.tensor(hidden, dtype=torch.float32)[None]
    result = compress_stage(given, layout, stage, vision=encoder)
    index = result.layout.token_index(torch.device("cpu"))
    return index.origin.tolist(), result.hidden_states[0][index.flat].double().numpy()


def gap(found, wanted):
    """Largest difference between (survivors, tokens) and {survivor: token}."""
    kept, tokens = found
    if kept != sorted(wanted):
        return math.inf
    return max((float(np.abs(tokens[j] - wanted[i]).max()) for j, i in enumerate(kept)), default=0)


def compare(rng, layout, encoder, ratio, roles, reference, windows=None):
    """Run method and reference on hidden states that are the projected features."""
    hidden = rng.normal(size=(layout.length, D))
    own = layout.token_index(torch.device("cpu")).flat.numpy()
    hidden[own] = [encoder.projected(x) for x in encoder.x]
    tokens = hidden[own]
    return gap(run(layout, encoder, hidden, ratio, roles, windows), reference(tokens))


def drawn(seed):
    rng = np.random.default_rng(seed)
    rows, columns = int(rng.integers(2, 8)), int(rng.integers(2, 8))
    return rng, *single(rng, rows, columns), float(rng.uniform(0.1, 0.95))


def kept_of(n, ratio):
    return round(round(n * (1 - ratio), 6))
