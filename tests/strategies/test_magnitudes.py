"""Directions decide what is alike, not magnitudes: vectors of 1e30 are matched as those of 1."""

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightkv import Stage, VisionLayout
from lightkv.core.contracts import EmbeddingsInput, MergeInput, ScoreInput, StageContext
from lightkv.functional import compress_stage
from lightkv.strategies.components import magnitude, similarity
from lightkv.strategies.components.aggregators import slot_shares
from lightkv.strategies.components.bipartite import alternate, nearest_inside
from lightkv.strategies.components.clusters import density_peaks, nearest_centre
from lightkv.strategies.components.guided import cheapest
from lightkv.strategies.components.magnitude import (
    largest,
    length,
    power_of_two,
    unit,
    unit_runs,
)
from lightkv.strategies.components.scorer_wrappers import relative, sample_mean
from lightkv.strategies.components.similarity import cosine, most_similar
from lightkv.strategies.sparsevlm import TextRaters, _relevance
from lightkv.testing.cases import SyntheticVision, attention

exponents = st.integers(-100, 100)
magnitudes = st.sampled_from([1e-38, 1e-30, 1e-12, 1e-4, 1.0, 1e4, 1e12, 1e30, 1e37])


def tokens_of(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def true_cosine(left, right):
    left, right = left.double(), right.double()
    scale = left.norm(dim=-1)[..., :, None] * right.norm(dim=-1)[..., None, :]
    dot = left @ right.transpose(-1, -2)
    return torch.where(scale > 0, dot / torch.where(scale > 0, scale, 1.0), 0.0)


@given(values=st.lists(st.floats(0, 2.0**127, width=32), min_size=1, max_size=20))
def test_the_power_of_two_is_exact(values):
    largest = torch.tensor(values, dtype=torch.float32)
    scale = power_of_two(largest)
    mantissa, _ = np.frexp(scale.numpy())
    assert (mantissa == 0.5).all(), "not a power of two"
    near = (largest.double() * scale.double())[largest >= 2.0**-126]
    assert bool(((near >= 1) & (near < 4)).all())
    assert torch.equal(largest * scale / scale, largest)


def test_what_is_not_finite_stays_so():
    assert power_of_two(torch.tensor([torch.inf, torch.nan])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@given(seed=st.integers(0, 99))
def test_the_largest_magnitude_of_each_dtype(dtype, seed):
    values = (tokens_of(seed, 6, 8) * torch.tensor([1e-7, 1.0, 1e3, 6e4, 1.0, -1.0])[:, None]).to(
        dtype
    )
    values[4], values[5, 0] = -values[4].abs(), 0
    values[3, 2], values[2, 1] = -torch.inf, torch.nan
    for dim in (-1, 0, (0, 1)):
        wanted = values.abs().amax(dim=dim, keepdim=True).float()
        torch.testing.assert_close(largest(values, dim), wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(seed=st.integers(0, 99))
def test_runs_of_rows_find_what_one_run_finds(dtype, seed):
    """The right side is measured once for all runs, and as a lone run measures it."""
    features = (tokens_of(seed, 2, 14, 1500) * 10.0 ** tokens_of(seed, 2, 14, 1)).to(dtype)
    inner = torch.arange(14).expand(2, -1) // 5
    score = tokens_of(seed + 1, 2, 14).abs()

    def found():
        pairs = most_similar(features[:, :6], features[:, 6:])
        return [*pairs, *nearest_inside(features, inner)], cheapest(
            features, score, alternate(inner), inner
        )

    with mock.patch.object(similarity, "SIMILARITY_ELEMENTS", 2 * 14 * 3):
        runs, run_costs = found()
    whole, costs = found()
    for one, other in zip([*runs, *run_costs], [*whole, *costs], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@given(
    seed=st.integers(0, 99),
    left=st.lists(magnitudes, min_size=3, max_size=3),
    right=st.lists(magnitudes, min_size=5, max_size=5),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_cosine_against_double_precision(seed, left, right, dtype):
    a = (tokens_of(seed, 1, 3, 9) * torch.tensor(left)[:, None]).to(dtype)
    b = (tokens_of(seed + 100, 1, 5, 9) * torch.tensor(right)[:, None]).to(dtype)
    b[0, 2] = 0
    found = cosine(a, b)
    assert found.dtype == torch.float32
    assert bool((found[..., 2] == 0).all())
    # Below 2⁻¹²⁶ the numbers themselves have fewer digits, which both sides see.
    torch.testing.assert_close(found.double(), true_cosine(a, b), atol=2e-6, rtol=0)


@given(seed=st.integers(0, 99))
def test_cosine_of_the_largest_half_precision_numbers(seed):
    a = (tokens_of(seed, 1, 4, 64).sign() * 6e4).to(torch.float16)
    torch.testing.assert_close(cosine(a, a).double(), true_cosine(a, a), atol=2e-6, rtol=0)


@given(seed=st.integers(0, 99), magnitude=magnitudes)
def test_lengths_and_directions(seed, magnitude):
    vectors = tokens_of(seed, 6, 8) * magnitude
    vectors[2] = 0
    wanted = vectors.double().norm(dim=-1)
    torch.testing.assert_close(length(vectors).double(), wanted, atol=0, rtol=1e-5)
    lengths = unit(vectors).norm(dim=-1)
    assert lengths[2] == 0
    torch.testing.assert_close(lengths[wanted > 0], torch.ones(5), atol=1e-5, rtol=0)


@given(seed=st.integers(0, 99), count=st.integers(0, 30))
def test_directions_in_runs_of_tokens(seed, count):
    vectors = tokens_of(seed, 2, count, 8)
    with mock.patch.object(magnitude, "RUN", 7):
        assert torch.equal(unit_runs(vectors), unit(vectors))


DIRECTIONS = (
    "tome",
    "lightkv",
    "lightkv-plus",
    "pitome",
    "divprune",
    "cdpruner",
    "dart",
    "vispruner",
    "visionzip",
)


@pytest.mark.parametrize("preset", [*DIRECTIONS, "tofu", "prumerge"])
@given(seed=st.integers(0, 99), exponent=exponents)
def test_a_stage_follows_directions(preset, seed, exponent):
    """2ᵏ times the tokens: the same assignment, and survivors that are 2ᵏ times as large."""
    layout = VisionLayout.from_spans([[(2, (1, 4, 5))]], length=25)
    hidden = tokens_of(seed, 1, 25, 8)
    query, key = attention(hidden)
    stage = Stage.preset(preset, ratio=0.5, **({"windows": 2} if preset == "lightkv" else {}))
    if preset == "lightkv-plus":
        stage = Stage.preset(preset, ratio=0.5, windows=2, partitioner="windows")
    factor = 2.0**exponent

    def run(factor):
        given = hidden * factor
        return compress_stage(
            given,
            layout,
            stage,
            query=query,
            key=key,
            vision=Scaled(hidden, layout, factor),
            context=StageContext(after_layer=1),
        )

    one, other = run(1.0), run(factor)
    assert torch.equal(one.assignment.slot, other.assignment.slot)
    wanted = one.hidden_states.double() * factor
    torch.testing.assert_close(other.hidden_states.double(), wanted, atol=0, rtol=1e-4)


class Scaled(SyntheticVision):
    """An encoder whose keys and features are of another magnitude; the projector is linear."""

    def __init__(self, hidden, layout, factor):
        super().__init__(hidden, layout)
        self.factor = factor

    def cls_attention(self, layer, *, split=True):
        factor, self.factor = self.factor, 1.0
        try:
            return super().cls_attention(layer, split=split)
        finally:
            self.factor = factor

    def keys(self, layer):
        return super().keys(layer) * self.factor

    def features(self):
        return super().features() * self.factor

    def project(self, features):
        weights = tokens_of(400, features.shape[-1], 8)
        return (features.double() @ weights.double()).float()


@pytest.mark.parametrize("value", [6e4, -6e4, 1e-7])
@pytest.mark.parametrize("preset", ["tofu", "tome", "pitome", "sparsevlm"])
def test_half_precision_at_its_ends_stays_finite(preset, value):
    layout = VisionLayout.from_spans([[(2, (1, 6, 6))]], length=45)
    hidden = (tokens_of(1, 1, 45, 16).sign() * value).to(torch.float16)
    query, key = attention(tokens_of(2, 1, 45, 8))
    stage = Stage.preset(preset, ratio=0.5)
    result = compress_stage(hidden, layout, stage, query=query, key=key)
    assert bool(torch.isfinite(result.hidden_states).all())
    assert result.score is None or bool(torch.isfinite(result.score).all())


def true_peaks(tokens, clusters):
    """Density peaks in double precision with whole-number exponents: log ρ + log δ."""
    tokens = tokens.double()
    distance = (tokens[:, None] - tokens[None]).norm(dim=-1) / tokens.shape[-1] ** 0.5
    density = -distance.sort(dim=-1).values[:, :clusters].square().mean(dim=-1)
    place = torch.arange(len(tokens))
    denser = (density[None] > density[:, None]) | (
        (density[None] == density[:, None]) & (place[None] < place[:, None])
    )
    apart = torch.where(denser, distance, distance.max()).amin(dim=-1)
    return (density + apart.log()).sort(descending=True, stable=True).indices[:clusters]


@given(seed=st.integers(0, 99), magnitude=st.sampled_from([1e-30, 1e-6, 1.0, 10.0, 1e6, 1e30]))
def test_density_peaks_against_double_precision(seed, magnitude):
    tokens = tokens_of(seed, 1, 12, 6) * magnitude
    centres = density_peaks(tokens, 4)
    assert centres[0].tolist() == true_peaks(tokens[0], 4).tolist()
    apart = (tokens[0].double()[:, None] - tokens[0].double()[centres[0]][None]).norm(dim=-1)
    wanted = centres[0][apart.argmin(dim=-1)]
    wanted[centres[0]] = centres[0]
    assert torch.equal(nearest_centre(tokens, centres, "euclidean")[0], wanted)


rater_sizes = st.sampled_from([1e-38, 1e-30, 1e-3, 1.0, 1e3, 1e18, 1e30])


@given(seed=st.integers(0, 99), magnitude=rater_sizes, first=st.sampled_from([0.0, 1e-38, 1.0]))
def test_raters_against_double_precision(seed, magnitude, first):
    """Raters exceed the mean of the softmax over the text of H_v H_tᵀ; the first vision vector may
    be of zeros. The same in a batch, whose other row has more text and brings padding."""
    hidden = tokens_of(seed, 1, 16, 8) * magnitude
    hidden[0, 1] *= first
    alone = EmbeddingsInput.of(hidden, VisionLayout.from_spans([[(1, (1, 3, 3))]], length=16))
    vision, text = hidden[0, 1:10].double(), hidden[0, 10:].double()
    share = (vision @ text.T).softmax(dim=-1).mean(dim=0)
    # What stands in the padding must not matter, so it is large.
    padded = torch.cat([torch.full((1, 5, 8), 1e30), hidden], dim=1)
    both = torch.cat([padded, tokens_of(seed + 1, 1, 21, 8) * 1e30])
    spans = [[(6, (1, 3, 3))], [(1, (1, 3, 3))]]
    batch = EmbeddingsInput.of(both, VisionLayout.from_spans(spans, length=21, pads=[5, 0]))
    wanted = torch.cat([torch.zeros(1), share.float()])

    def relevance(given):
        behind = given.prompt.valid & (given.prompt.index > given.last_vision[:, None])
        return _relevance(given, behind)[0]

    one, many = relevance(alone), relevance(batch)
    torch.testing.assert_close(one, wanted, atol=2e-5, rtol=0)
    torch.testing.assert_close(many, torch.cat([one, torch.zeros(5)]), atol=1e-6, rtol=0)
    # A difference from the mean in the last digits may fall either way.
    sure = (share - share.mean()).abs() > 1e-4
    for each in (alone, batch):
        found = TextRaters().read_embeddings(each)[0, 1:7] > 0
        assert torch.equal(found[sure], (share > share.mean())[sure])


@given(exponent=st.integers(-60, 120))
def test_shares_do_not_depend_on_the_size_of_weights(exponent):
    score = tokens_of(3, 2, 8).abs() + 0.1
    target = torch.tensor([[1, 1, 3, 3, 5, 5, 5, 7]]).expand(2, -1)

    def shares(weights):
        tokens = tokens_of(4, 2, 8, 4)
        kept = torch.tensor([[1, 3, 5, 7]]).expand(2, -1)
        given = MergeInput(tokens, target, kept, weights, torch.ones(2, 8), StageContext())
        return slot_shares(given, weights)

    assert torch.equal(shares(score), shares(score * 2.0**exponent))


@given(exponent=st.integers(-100, 120))
def test_means_of_scores(exponent):
    score = tokens_of(5, 12).abs() + 0.1
    hidden = torch.zeros(2, 8, 4)
    vision = torch.tensor([*range(6), *range(8, 14)])
    given = ScoreInput(hidden, vision, vision % 8, torch.ones(12), None, StageContext())
    assert torch.equal(relative(score, given), relative(score * 2.0**exponent, given))
    mean = sample_mean(score * 2.0**exponent, given)
    torch.testing.assert_close(mean, sample_mean(score, given) * 2.0**exponent, atol=0, rtol=1e-6)


@given(exponent=st.integers(-100, 120), seed=st.integers(0, 99))
def test_means_of_scores_below_zero(exponent, seed):
    """A sample of negative scores alone has a finite mean, as double precision has it."""
    score = tokens_of(seed, 12) * 2.0**exponent
    score[:6] = -score[:6].abs()
    vision = torch.tensor([*range(6), *range(8, 14)])
    given = ScoreInput(
        torch.zeros(2, 8, 4), vision, vision // 8, torch.ones(12), None, StageContext()
    )
    wanted = score.double().view(2, 6).mean(dim=1).repeat_interleave(6)
    near = 2.0**exponent * 1e-5
    torch.testing.assert_close(sample_mean(score, given).double(), wanted, atol=near, rtol=1e-5)
