"""The task: scans, scenes, questions, scores."""

from __future__ import annotations

import numpy as np
import pytest

from lightkv.demo.digits import load_digits
from lightkv.demo.scenes import (
    COLOR_WORDS,
    IMAGE_SIZE,
    KINDS,
    MAX_DIGITS,
    Question,
    Scene,
    held_out_scenes,
    make_questions,
    make_scene,
    prompt,
    score,
)
from training.augment import augmented


def test_splits_are_disjoint_and_whole() -> None:
    train, _ = load_digits("train")
    test, labels = load_digits("test")
    seen = {scan.tobytes() for scan in train}
    assert len(train) + len(test) == 1797
    assert not any(scan.tobytes() in seen for scan in test)
    assert np.bincount(labels).min() > 40


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="'train' or 'test'"):
        load_digits("validation")  # type: ignore[arg-type]


def test_augmented_scans_keep_shape_and_range() -> None:
    bank = augmented(np.random.default_rng(0), 2)
    assert bank.shape == (2, len(load_digits("train")[0]), 8, 8)
    assert bank.min() >= 0
    assert bank.max() <= 1


def test_same_seed_same_scenes() -> None:
    first, second = held_out_scenes(4, seed=3), held_out_scenes(6, seed=3)
    for (scene, questions), (again, asked_again) in zip(first, second, strict=False):
        assert scene.image.tobytes() == again.image.tobytes()
        assert scene.digits == again.digits
        assert questions == asked_again
    other = held_out_scenes(1, seed=4)[0][0]
    assert other.image.tobytes() != first[0][0].image.tobytes()


def test_scene_is_well_formed() -> None:
    rng = np.random.default_rng(0)
    for count in range(1, MAX_DIGITS + 1):
        scene = make_scene(rng, num_digits=count)
        assert scene.image.size == (IMAGE_SIZE, IMAGE_SIZE)
        assert scene.image.mode == "RGB"
        assert len({placed.digit for placed in scene.digits}) == count
        assert len({placed.color for placed in scene.digits}) == count
        slots = [placed.slot for placed in scene.digits]
        assert slots == sorted(set(slots))
        labels = load_digits("test")[1]
        for placed in scene.digits:
            assert (placed.patch[0] // 3, placed.patch[1] // 3) == placed.slot
            assert labels[placed.scan] == placed.digit
            left, top, right, bottom = placed.box
            assert right - left == bottom - top == 8
            assert abs(left - 8 * placed.patch[1]) <= 1
            assert abs(top - 8 * placed.patch[0]) <= 1


def test_too_many_digits_are_refused() -> None:
    with pytest.raises(ValueError, match="1 to 7"):
        make_scene(np.random.default_rng(0), num_digits=8)


def expected(scene: Scene, question: Question) -> str:
    """The answer worked out from the question's words alone."""
    words = question.text.split()
    by_color = {placed.color: placed for placed in scene.digits}
    by_digit = {str(placed.digit): placed for placed in scene.digits}
    if question.kind == "color_to_digit":
        return str(by_color[words[3]].digit)
    if question.kind == "digit_to_color":
        return by_digit[words[3]].color
    if question.kind == "exists":
        return "yes" if words[2] in by_digit else "no"
    if question.kind == "count":
        return str(len(scene.digits))
    if question.kind == "list":
        ordered = sorted(scene.digits, key=lambda placed: placed.slot)
        return " ".join(f"{placed.digit} {placed.color}" for placed in ordered)
    named = by_color[words[-3]]
    row, col = named.slot
    if "left" in words:
        found = [p for p in scene.digits if p.slot[0] == row and p.slot[1] < col]
        return str(max(found, key=lambda p: p.slot[1]).digit)
    found = [p for p in scene.digits if p.slot[1] == col and p.slot[0] < row]
    return str(max(found, key=lambda p: p.slot[0]).digit)


def test_answers_follow_from_the_scene() -> None:
    asked = dict.fromkeys(KINDS, 0)
    yes = []
    for scene, questions in held_out_scenes(300, seed=11):
        for question in questions:
            asked[question.kind] += 1
            assert question.answer == expected(scene, question)
            if question.target is not None and question.kind in ("color_to_digit", "spatial"):
                assert str(scene.digits[question.target].digit) == question.answer
            if question.kind == "exists":
                yes.append(question.answer == "yes")
    assert all(count == 300 for kind, count in asked.items() if kind != "spatial")
    assert asked["spatial"] > 150
    assert 0.4 < np.mean(yes) < 0.6


def test_kinds_can_be_chosen() -> None:
    rng = np.random.default_rng(0)
    scene = make_scene(rng, num_digits=3)
    assert [q.kind for q in make_questions(scene, rng, ["list", "count"])] == ["list", "count"]
    with pytest.raises(ValueError, match="unknown kind"):
        make_questions(scene, rng, ["rhyme"])  # type: ignore[list-item]


def test_score() -> None:
    short = Question("count", "how many digits there ?", "3", None)
    assert score(short, " 3 ") == 1
    assert score(short, "4") == 0
    assert score(short, "") == 0
    listed = Question("list", "list all digits", "3 red 7 blue 1 white", None)
    assert score(listed, "3 red 7 blue 1 white") == 1
    assert score(listed, "3 red 1 white") == pytest.approx(2 / 3)
    assert score(listed, "7 blue 3 red 1 white") == pytest.approx(2 / 3)
    assert score(listed, "3 red 7 blue 1 white 2 green") == pytest.approx(3 / 4)
    assert score(listed, "") == 0


def test_prompt_names_the_picture_once() -> None:
    assert prompt("list all digits") == "user : <image> list all digits assistant :"
    assert len(set(COLOR_WORDS)) == 8
