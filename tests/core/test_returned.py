"""What components return: whatever breaks the contract of a role is refused, and named."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightkv import Stage, VisionLayout
from lightkv.core.contracts import (
    AttentionScorer,
    Matcher,
    Merged,
    Partition,
    Partitioner,
    PositionPolicy,
    Scorer,
    StageContext,
    VisionScorer,
)
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.errors import ConfigError, LightKVError, NumericError
from lightkv.core.needs import Need
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.run.engine import Engine
from lightkv.core.stage.checks import Checks, check_counts, check_survivors
from lightkv.functional import compress_stage
from lightkv.strategies.components.aggregators import Drop
from lightkv.strategies.components.top_k import TopK

LAYOUT = VisionLayout.from_spans([[(2, (1, 4, 4))], [(3, (1, 4, 4))]])
HIDDEN = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))


def matcher(of):
    class Values(Matcher):
        name = "values"

        def match(self, inputs):
            return of(places(inputs), inputs.keep, inputs)

    return {"matcher": Values()}


def places(inputs):
    window = torch.arange(inputs.tokens.shape[1], device=inputs.tokens.device)
    return window.expand(inputs.tokens.shape[0], -1)


def scorer(of):
    class Mine(Scorer):
        name = "mine"

        def score(self, inputs):
            return of(inputs.size)

    return {"scorer": Mine()}


def aggregator(of):
    class Mine(Drop):
        name = "mine"

        def merge(self, inputs):
            return of(inputs, super().merge(inputs))

    return {"aggregator": Mine()}


def dynamic(of):
    class Counting(TopK):
        name = "counting"

        @property
        def dynamic(self):
            return True

        def count(self, inputs):
            return of(inputs)

    return {"matcher": Counting()}


def run(roles, **given_arguments):
    stage = Stage.preset("fastv", ratio=0.75, **{"scorer": "uniform", **roles})
    context = StageContext(stage=1)
    return compress_stage(HIDDEN, LAYOUT, stage, context=context, **given_arguments)


KEPT = r"stage 1, window 0, targets = .*'values' kept {} of 16 tokens of a window and must keep 4"
SHAPE = (
    r"stage 1: matcher 'values' returned shape \[2, 15\], and `match` returns \[G, n\] = \[2, 16\]"
)
BROKEN = {
    "one too many": (matcher(lambda at, k, _: torch.where(at <= k, at, -1)), KEPT.format(5)),
    "one too few": (matcher(lambda at, k, _: torch.where(at < k - 1, at, -1)), KEPT.format(3)),
    "none at all": (matcher(lambda at, k, _: torch.full_like(at, -1)), KEPT.format(0)),
    "by values": (
        matcher(lambda at, k, i: torch.where(i.tokens[..., 0] > 0, at, -1)),
        KEPT.format(int((HIDDEN[0, 2:18, 0] > 0).sum())),
    ),
    "a mask": (matcher(lambda at, k, _: at < k), r"torch.bool, and `match`.*mask of survivors"),
    "int32": (matcher(lambda at, k, _: at.int()), r"torch.int32.*places \(torch.int64\)"),
    "a token short": (matcher(lambda at, k, _: at[:, :-1]), SHAPE),
    "nothing": (matcher(lambda at, k, _: None), "a NoneType, and `match` returns"),
    "out of range": (
        matcher(lambda at, k, _: torch.where(at < k, at, 99)),
        "sent a token to place 99 of a window of 16 tokens",
    ),
    "into no survivor": (
        matcher(lambda at, k, _: torch.where(at < k, at, torch.where(at == 9, 5, 0))),
        "sent token 9 of a window to token 5, which does not survive",
    ),
    "a score short": (
        scorer(lambda size: size[:-1]),
        r"stage 1: scorer 'mine' returned shape \[31\], and `score` returns \[V\] = \[32\]",
    ),
    "whole numbers": (scorer(lambda size: size.long()), "scorer 'mine' returned torch.int64"),
    "elsewhere": (scorer(lambda size: size.to("meta")), "on meta, and the stage works on cpu"),
    "tokens of the window": (
        aggregator(lambda i, m: Merged(i.tokens, m.share)),
        r"aggregator 'mine' returned shape \[2, 16, 8\], and `merge` returns tokens \[G, k, D\] = "
        r"\[2, 4, 8\]",
    ),
    "no share": (aggregator(lambda i, m: Merged(None, None)), r"a NoneType.* share \[G, n\]"),
    "a tensor": (aggregator(lambda i, m: i.tokens), r"a Tensor, and `merge` returns Merged"),
    "counts above keep": (
        dynamic(lambda i: torch.full((2,), i.keep + 1)),
        "counted 5 survivors of a window of 16 tokens, of which at most 4 may stay",
    ),
    "counts below 0": (dynamic(lambda i: torch.full((2,), -1)), "counted -1 survivors"),
    "counts as fractions": (
        dynamic(lambda i: torch.full((2,), 2.0)),
        r"torch.float32, and `count` returns \[G\] = \[2\] of whole numbers",
    ),
    "one count": (dynamic(lambda i: torch.tensor(2)), r"shape \[\], and `count` returns \[G\]"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_the_contract_is_named(name):
    roles, words = BROKEN[name]
    with pytest.raises(ConfigError, match=words) as caught:
        run(roles)
    assert caught.value.remedy
    with pytest.raises(ConfigError, match=words):  # on a CPU nothing waits, so values are seen too
        run(roles, check_finite=False)


def test_a_dynamic_budget_may_drop_a_whole_window_and_must_be_counted():
    assert run(dynamic(lambda i: torch.tensor([0, 3]))).layout.vision_counts == (0, 3)

    class Uncounted(TopK):
        name = "uncounted"

        @property
        def dynamic(self):
            return True

    with pytest.raises(ConfigError, match=r"matcher 'uncounted'.*`count` does not say"):
        run({"matcher": Uncounted()})


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        (scorer(lambda size: size - 2), "scorer 'mine' gave 32 of 32 tokens an importance below 0"),
        (scorer(lambda size: size * float("nan")), "32 of 32 values are NaN or infinite"),
        (scorer(lambda size: size * float("inf")), "scorer 'mine' = inf"),
    ],
)
def test_importances_are_finite_and_not_below_0(roles, words):
    with pytest.raises(NumericError, match=words) as caught:
        run(roles)
    assert "stage 1" in caught.value.field


def test_readings_fit_the_layout():
    class Short(AttentionScorer):
        name = "short"
        requires = frozenset({Need.LAST_ROW})

        def read_attention(self, attention):
            return attention.last_row().mean(dim=1)[:, :-1]

    class Wide(Short):
        name = "wide"

        def read_attention(self, attention):
            return attention.last_row().transpose(1, 2)

    class Seen(VisionScorer):
        name = "seen"
        requires = frozenset({Need.VISION_CLS.at(-1)})

        def read_encoder(self, vision):
            return torch.ones(31)

    row = torch.rand(2, 2, 20)
    with pytest.raises(
        ConfigError, match=r"'short' returned shape \[2, 19\].*\[B, N\] = \[2, 20\]"
    ):
        run({"scorer": Short()}, last_row=row)
    with pytest.raises(
        ConfigError, match=r"'wide' returned shape \[2, 20, 2\].*\[B, N\] = \[2, 20\]"
    ):
        run({"scorer": Wide()}, last_row=row)
    with pytest.raises(ConfigError, match=r"'seen' returned shape \[31\].*\[V₀\] = \[32\]"):
        run({"scorer": Seen()}, vision=object())


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (lambda tokens: None, "a NoneType with labels of type NoneType"),
        (lambda tokens: tokens.view, "a ndarray with labels of type NoneType"),
        (lambda tokens: Partition(torch.zeros(16)), "a Partition with labels of type Tensor"),
        (lambda tokens: Partition(tokens.view[:-1]), r"labels of shape \[15\]"),
        (lambda tokens: Partition(tokens.view[:-1], by="rank"), r"labels of shape \[15\]"),
        (lambda tokens: Partition(tokens.view * 0.5), "labels of float64"),
    ],
)
def test_a_partition_has_a_label_for_each_token(of, words):
    class Mine(Partitioner):
        name = "mine"

        def partition(self, sample, groups, windows):
            return of(sample.tokens)

    with pytest.raises(ConfigError, match=f"partitioner 'mine' returned {words}.* 16 tokens"):
        run({"partitioner": Mine()})


def test_positions_have_the_shape_of_the_new_sequence():
    class Mine(PositionPolicy):
        name = "mine"

        def positions(self, inputs):
            return inputs.positions[:, :, :-1]

    pipeline = Pipeline.build(
        "fastv", 2, schedule=[{"after_layer": 1, "ratio": 0.5}], scorer="size"
    )
    object.__setattr__(pipeline, "positions", Mine())
    prefill = Engine(pipeline, DecoderShape(2, 8, 2, 2, 4, 8, 8)).begin(LAYOUT.with_length(20))
    prefill.positions = torch.arange(20).expand(1, 2, -1)
    words = r"stage 0: positions 'mine' returned shape \[1, 2, 19\].*\[A, B, N′\] = \[1, 2, 12\]"
    with pytest.raises(ConfigError, match=words):
        prefill.apply(1, HIDDEN)


def test_what_wrappers_hold_is_named_too():
    from lightkv.strategies.components.matcher_wrappers import Protect
    from lightkv.strategies.components.scorer_wrappers import Floor

    floor, protect = Floor(of="uniform"), Protect(of="top-k")
    vars(floor)["inner"] = (scorer(lambda size: size[:-1])["scorer"],)
    vars(protect)["inner"] = matcher(lambda at, k, _: at < k)["matcher"]
    with pytest.raises(ConfigError, match=r"scorer 'mine' returned shape \[31\]"):
        run({"scorer": floor})
    with pytest.raises(ConfigError, match=r"matcher 'values' returned torch\.bool"):
        run({"matcher": protect})


def test_an_error_inside_a_component_says_whose_it_is():
    with pytest.raises(ZeroDivisionError) as caught:
        run(matcher(lambda at, k, _: 1 // 0))
    assert caught.value.__notes__ == ["In match of matcher 'values', stage 1."]


def test_the_meta_device_has_no_values_to_look_at():
    stage = Stage.preset("fastv", ratio=0.75, scorer="uniform", **BROKEN["one too many"][0])
    found = compress_stage(HIDDEN.to("meta"), LAYOUT, stage)
    assert found.layout.vision_counts == (4, 4)


@given(
    population=st.integers(1, 9), keep=st.integers(0, 9), windows=st.integers(1, 3), data=st.data()
)
def test_targets_are_right_or_refused(population, keep, windows, data):
    """By the sentence of the contract, in plain Python."""
    drawn = st.lists(st.integers(-2, population), min_size=population, max_size=population)
    said = data.draw(st.lists(drawn, min_size=windows, max_size=windows))
    right = all(
        sum(target == place for place, target in enumerate(row)) == keep
        and all(t == -1 or (0 <= t < population and row[t] == t) for t in row)
        for row in said
    )
    given_arguments = (TopK(), torch.tensor(said), keep, range(windows), StageContext(), Checks())
    if right:
        check_survivors(*given_arguments)
        return
    with pytest.raises(ConfigError, match="matcher 'top-k'"):
        check_survivors(*given_arguments)


@given(counts=st.lists(st.integers(-2, 9), max_size=3), keep=st.integers(0, 8))
def test_counts_are_right_or_refused(counts, keep):
    if all(0 <= count <= keep for count in counts):
        check_counts(TopK(), counts, keep, 9, StageContext())
        return
    with pytest.raises(ConfigError, match="counted"):
        check_counts(TopK(), counts, keep, 9, StageContext())


def test_values_on_a_device_are_looked_at_in_the_first_prefill_and_where_asked():
    shape = DecoderShape(2, 8, 2, 2, 4, 8, 8)
    pipeline = Pipeline.build("fastv", 2, schedule=[{"after_layer": 1, "ratio": 0.5}])
    engine = Engine(pipeline, shape)
    assert [engine.begin(LAYOUT.with_length(20)).checks for _ in range(3)] == [
        Checks(waits=True),
        Checks(),
        Checks(),
    ]
    engine = Engine(pipeline, shape, check_finite=True)
    asked = [engine.begin(LAYOUT.with_length(20)).checks for _ in range(2)]
    assert asked == [Checks(waits=True, finite=True)] * 2


@pytest.mark.parametrize("name", ["one too many", "a mask", "a score short"])
def test_a_session_refuses_it_as_well(name):
    roles, words = BROKEN[name]
    pipeline = Pipeline.build("fastv", 2, schedule=[{"after_layer": 1, "ratio": 0.75}])
    stage = Stage.preset("fastv", ratio=0.75, **{"scorer": "uniform", **roles})
    placed = pipeline.stages[0]
    object.__setattr__(placed, "rounds", (stage,))
    prefill = Engine(pipeline, DecoderShape(2, 8, 2, 2, 4, 8, 8)).begin(LAYOUT.with_length(20))
    with pytest.raises(LightKVError, match=words.replace("stage 1", "stage 0")):
        prefill.apply(1, HIDDEN)
