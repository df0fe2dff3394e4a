"""Pictures of many sizes, and pairs of them."""

from __future__ import annotations

from collections import Counter

import numpy as np

from lightkv.demo.native import (
    MAX_PAIR_DIGITS,
    MAX_PATCHES,
    PAIR_KINDS,
    held_out_pairs,
    held_out_pictures,
    pair_digits,
)
from lightkv.demo.scenes import KINDS

PICTURES, PAIRS = held_out_pictures(150, seed=5), held_out_pairs(300, seed=5)


def test_pictures_have_many_sizes_and_their_digits_stand_where_they_say():
    sizes = set()
    for scene, _ in PICTURES:
        cols, rows = (side // 8 for side in scene.image.size)
        sizes.add((rows, cols))
        assert 64 <= rows * cols <= MAX_PATCHES
        for one in scene.digits:
            left, top, right, bottom = one.box
            assert abs(left - 8 * one.patch[1]) <= 1
            assert abs(top - 8 * one.patch[0]) <= 1
            assert (right - left, bottom - top) == (8, 8)
            assert (one.patch[0] // 2, one.patch[1] // 2) == one.slot
        order = [one.slot for one in scene.digits]
        assert order == sorted(set(order))
    assert len(sizes) > 50
    assert max(rows * cols for rows, cols in sizes) > 300


def test_pictures_ask_all_questions_of_the_first_model():
    asked = Counter(q.kind for _, questions in PICTURES for q in questions)
    assert set(asked) == set(KINDS)
    assert asked["spatial"] > 75


def test_the_same_seed_gives_the_same_pictures_and_pairs():
    for made, again in (
        (PICTURES[0][0].image, held_out_pictures(1, seed=5)[0][0].image),
        (PAIRS[0][0].second.image, held_out_pairs(1, seed=5)[0][0].second.image),
    ):
        assert made.tobytes() == again.tobytes()
    assert held_out_pairs(2, seed=5)[1][1] == PAIRS[1][1]


def test_answers_about_pairs_are_those_of_sets():
    asked = Counter()
    for pair, questions in PAIRS:
        first, second = (
            {one.digit: one.color for one in s.digits} for s in (pair.first, pair.second)
        )
        for question in questions:
            asked[question.kind] += 1
            if question.kind == "both":
                truth = first.keys() & second.keys()
            elif question.kind == "only_second":
                truth = second.keys() - first.keys()
            else:
                color = question.text.split()[3]
                truth = {digit for digit, there in second.items() if there == color}
                asked["contradicted"] += color in first.values()
            assert {int(question.answer)} == set(truth)
            assert pair.digits[question.target].digit == int(question.answer)
            assert question.target >= len(first)
    assert set(PAIR_KINDS) <= set(asked)
    assert asked["contradicted"] > 0.8 * asked["second_color"]  # the first picture alone misleads


def test_no_answer_about_pairs_is_likely_before_they_are_seen():
    for kind in PAIR_KINDS:
        answers = Counter(q.answer for _, qs in PAIRS for q in qs if q.kind == kind)
        assert max(answers.values()) < 0.2 * sum(answers.values()), kind


def test_pairs_keep_to_the_most_digits_and_always_allow_a_comparison():
    rng = np.random.default_rng(0)
    for most in range(2, MAX_PAIR_DIGITS + 1):
        for _ in range(50):
            first, second = pair_digits(rng, most)
            assert 1 <= len(first) <= most
            assert 1 <= len(second) <= most
            assert 1 in (len(set(first) & set(second)), len(set(second) - set(first)))
