"""A cache with compressed entries outside its session, in copies, emptied, and with its rows moved."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from test_gemma3 import TestGemma3 as Gemma3Suite
from test_llava import TestLlava as LlavaSuite
from transformers import DynamicCache

import lightkv
from lightkv.adapters.hf.cache_guard import guard_of
from lightkv.core.errors import LayoutError, SessionError
from lightkv.testing import Prompt

HALF = [{"after_layer": 2, "ratio": 0.5}]
FIRST = [{"after_layer": 0, "ratio": 0.5}]
UNEVEN = (Prompt(6, 1, 5, 1), Prompt(4, 1, 6, 2))
SUITES = {"llava": LlavaSuite, "gemma3": Gemma3Suite}
both = pytest.mark.parametrize("family", sorted(SUITES))


def filled(suite: Any, model: Any, prompts: Any) -> Any:
    """A cache that holds a compressed prompt."""
    cache = DynamicCache(config=model.config.get_text_config())
    suite.call(model, suite.make_inputs(model, prompts), past_key_values=cache, use_cache=True)
    return cache


def step(suite: Any, model: Any, cache: Any, prompts: Any, rows: Any = None) -> torch.Tensor:
    """Logits of one more token in each row; `rows` says where each row came from."""
    mask = suite.make_inputs(model, prompts)["attention_mask"]
    mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    ids = torch.arange(len(mask))[:, None] + 21
    if rows is not None:
        mask, ids = mask[rows], ids[rows]
    places = (mask.cumsum(-1) - 1)[:, -1:]
    inputs = {"input_ids": ids, "attention_mask": mask}
    return suite.call(model, inputs, position_ids=places, past_key_values=cache).logits[:, -1]


@torch.no_grad()
@both
@pytest.mark.parametrize("schedule", [HALF, FIRST])
@pytest.mark.parametrize("how", ["deepcopy", "copy", "pickle"])
@pytest.mark.parametrize("where", ["inside", "outside"])
def test_a_copy_is_known_as_a_copy(family: str, schedule: Any, how: str, where: str) -> None:
    """Also where all layers hold equally many entries, and in the plain model."""
    suite = SUITES[family]()
    model = suite.make_model()
    prompts = UNEVEN[:1]
    with lightkv.compress(model, "random", schedule=schedule):
        cache = filled(suite, model, prompts)
        if how == "pickle":
            file = io.BytesIO()
            torch.save(cache, file)
            file.seek(0)
            other = torch.load(file, weights_only=False)
        else:
            other = getattr(copy, how)(cache)
        if where == "inside":
            with pytest.raises(SessionError, match="copy") as error:
                step(suite, model, other, prompts)
            step(suite, model, cache, prompts)
    if where == "outside":
        with pytest.raises(SessionError, match="compressed") as error:
            step(suite, model, other, prompts)
    assert error.value.field == "past_key_values"
    assert error.value.remedy


@torch.no_grad()
@pytest.mark.parametrize("schedule", [HALF, FIRST])
@pytest.mark.parametrize(
    # transformers itself crops no cache whose windows are full.
    ("family", "how"),
    [("llava", "reset"), ("llava", "crop"), ("gemma3", "reset")],
)
@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("where", ["inside", "outside"])
def test_an_emptied_cache_is_an_ordinary_cache_again(
    family: str, schedule: Any, how: str, copied: bool, where: str
) -> None:
    suite = SUITES[family]()
    model = suite.make_model()
    prompts = UNEVEN[:1]

    def again(cache: Any) -> torch.Tensor:
        if how == "reset":
            cache.reset()
        else:
            for layer in cache.layers:
                layer.crop(-layer.get_seq_length())
        suite.call(model, suite.make_inputs(model, prompts), past_key_values=cache, use_cache=True)
        return step(suite, model, cache, prompts)

    plain = step(suite, model, filled(suite, model, prompts), prompts)
    with lightkv.compress(model, "random", schedule=schedule) as run:
        filled(suite, model, prompts)
        cache = filled(suite, model, prompts)
        wanted = step(suite, model, cache, prompts)
        if copied:
            cache = copy.deepcopy(cache)
        if where == "inside":
            found = again(cache)
            assert len({report.retention for report in run.reports}) == 1
    if where == "outside":
        torch.testing.assert_close(again(cache), plain, atol=1e-5, rtol=0)
        assert guard_of(cache) is None
        assert "get_seq_length" not in vars(cache)
    else:
        # The noise of the preset differs from run to run; the shapes and the record do not.
        assert found.shape == wanted.shape
        assert not torch.equal(found, plain)


@torch.no_grad()
@both
@pytest.mark.parametrize(
    ("pipeline", "schedule"),
    [("fastv", HALF), ("imgrand", [{"site": "cache", "ratio": 0.5}])],
)
@pytest.mark.parametrize(
    ("how", "rows"),
    [
        ("reorder_cache", [1, 0]),
        ("reorder_cache", [1, 1]),
        ("batch_select_indices", [1]),
        ("batch_repeat_interleave", [0, 0, 1, 1]),
    ],
)
def test_moved_rows_are_followed(
    family: str, pipeline: str, schedule: Any, how: str, rows: list[int]
) -> None:
    """Rows of unequal padding: each answers as it would have where it stood."""
    if family == "gemma3" and pipeline == "imgrand":
        pipeline, schedule = "fastv", [{"after_layer": 2, "ratio": 0.3}]
    suite = SUITES[family]()
    model = suite.make_model()
    with lightkv.compress(model, pipeline, schedule=schedule):
        wanted = step(suite, model, filled(suite, model, UNEVEN), UNEVEN)
    with lightkv.compress(model, pipeline, schedule=schedule):
        cache = filled(suite, model, UNEVEN)
        given = 2 if how == "batch_repeat_interleave" else torch.tensor(rows)
        getattr(cache, how)(given)
        found = step(suite, model, cache, UNEVEN, rows)
    torch.testing.assert_close(found, wanted[rows], atol=1e-5, rtol=0)


@torch.no_grad()
def test_merged_sizes_move_with_their_rows() -> None:
    """Proportional attention: the sizes of entries are on the record too."""
    suite = LlavaSuite()
    model = suite.make_model()
    options = {"schedule": [{"after_layer": 2, "ratio": 0.4}], "proportional": True}
    with lightkv.compress(model, "tome", **options):
        wanted = step(suite, model, filled(suite, model, UNEVEN), UNEVEN)
        cache = filled(suite, model, UNEVEN)
        cache.reorder_cache(torch.tensor([1, 0]))
        found = step(suite, model, cache, UNEVEN, [1, 0])
    torch.testing.assert_close(found, wanted[[1, 0]], atol=1e-5, rtol=0)


@torch.no_grad()
def test_nothing_is_added_between_two_passes() -> None:
    """Inside the session too: entries of another hand are none of the record's."""
    suite = LlavaSuite()
    model = suite.make_model()
    with lightkv.compress(model, "fastv", schedule=HALF):
        cache = filled(suite, model, UNEVEN)
        key = cache.layers[0].keys[:, :, :1]
        with pytest.raises(SessionError, match="compressed"):
            cache.update(key, key, 0)
        step(suite, model, cache, UNEVEN)


@torch.no_grad()
def test_a_session_that_removes_nothing_leaves_caches_alone() -> None:
    suite = LlavaSuite()
    model = suite.make_model()
    wanted = step(suite, model, filled(suite, model, UNEVEN), UNEVEN)
    with lightkv.compress(model, "fastv", schedule=[{"after_layer": 2, "ratio": 0.0}]):
        cache = filled(suite, model, UNEVEN)
    torch.testing.assert_close(step(suite, model, cache, UNEVEN), wanted, atol=1e-6, rtol=0)


@torch.no_grad()
def test_text_alone_may_be_masked_as_the_caller_likes() -> None:
    """Where no layer is compressed, all of them follow the caller's mask; rows may move, too."""
    suite = LlavaSuite()
    model = suite.make_model()
    prompts = (Prompt(6, 0, 5, 1), Prompt(4, 0, 6, 2))

    def chat() -> torch.Tensor:
        cache = filled(suite, model, prompts)
        cache.reorder_cache(torch.tensor([1, 0]))
        mask = suite.make_inputs(model, prompts)["attention_mask"][[1, 0]]
        mask[0, -2:] = 0  # the answer of that row ended early
        mask = torch.cat([mask, torch.ones(2, 3, dtype=torch.long)], dim=1)
        ids = torch.full((2, 3), 30)
        return model(input_ids=ids, attention_mask=mask, past_key_values=cache).logits

    plain = chat()
    with lightkv.compress(model, "fastv", schedule=HALF):
        torch.testing.assert_close(chat(), plain, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_guard_of_an_earlier_session_does_not_outlive_what_it_guarded() -> None:
    suite = LlavaSuite()
    model = suite.make_model()
    text = (Prompt(6, 0, 5, 1),)
    with lightkv.compress(model, "fastv", schedule=HALF):
        cache = filled(suite, model, UNEVEN[:1])
    cache.reset()
    with lightkv.compress(model, "fastv", schedule=HALF):
        suite.call(model, suite.make_inputs(model, text), past_key_values=cache, use_cache=True)
    assert guard_of(cache) is None
    step(suite, model, cache, text)


@torch.no_grad()
@pytest.mark.parametrize("index", [[1, 0], torch.tensor([-1, 0]), torch.tensor([True, True])])
def test_rows_are_moved_by_whatever_the_cache_takes(index: Any) -> None:
    suite = LlavaSuite()
    model = suite.make_model()
    rows = [1, 0] if not isinstance(index, torch.Tensor) or index.dtype != torch.bool else [0, 1]
    with lightkv.compress(model, "fastv", schedule=HALF):
        wanted = step(suite, model, filled(suite, model, UNEVEN), UNEVEN)
        cache = filled(suite, model, UNEVEN)
        cache.batch_select_indices(index)
        found = step(suite, model, cache, UNEVEN, rows)
    torch.testing.assert_close(found, wanted[rows], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_mask_that_hides_other_entries_than_before_is_refused() -> None:
    """A conversation that was tokenised anew, with all its padding on the left."""
    suite = LlavaSuite()
    model = suite.make_model()
    with lightkv.compress(model, "fastv", schedule=HALF):
        cache = filled(suite, model, UNEVEN)
        mask = suite.make_inputs(model, UNEVEN)["attention_mask"]
        new = torch.tensor([[1, 1, 1], [0, 1, 1]])
        own = torch.cat([mask, new], dim=1)
        left = own.sort(dim=1).values
        assert not torch.equal(own, left)
        ids = {"input_ids": torch.full((2, 3), 30)}
        with pytest.raises(LayoutError, match="hides other entries") as error:
            model(**ids, attention_mask=left, past_key_values=cache)
        assert error.value.field == "attention_mask"
        model(**ids, attention_mask=own, past_key_values=cache)
