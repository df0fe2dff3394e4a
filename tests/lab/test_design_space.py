"""What a search study may say: open values, their paths, and the mistakes that are named."""

import sys
from pathlib import Path

import pytest

from lightkv.core.errors import ConfigError
from lightkv.lab import SearchStudy
from lightkv.lab.designs.drawing import check_space, design, optuna_library
from lightkv.lab.designs.space import (
    Choice,
    Range,
    corners,
    first_of,
    fixed,
    open_values,
    rounded,
    text_of,
)
from lightkv.lab.errors import SearchError

SPACE = {
    "matcher": {"any": ["bipartite", {"name": "guided", "split": {"any": ["importance"]}}]},
    "schedule": {"any": {"few": {"depths": [{"from": 0.1, "to": 0.3}]}, "own": {}}},
    "proportional": {"any": [True, False]},
}
STUDY = {"retention": 0.5, "space": SPACE, "task": {"name": "scenes", "scenes": 8, "seed": 1}}


def test_open_values_are_named_by_where_they_stand():
    found = {each.path: each for each in open_values(SPACE)}
    assert list(found) == [
        "matcher",
        "matcher=guided.split",
        "schedule",
        "schedule=few.depths[0]",
        "proportional",
    ]
    assert list(found["proportional"].options) == ["on", "off"]
    assert isinstance(found["schedule=few.depths[0]"], Range)


def test_what_stands_below_an_option_is_chosen_with_it_only():
    def pick(labels):
        asked = []

        def choose(value):
            asked.append(value.path)
            return labels.get(value.path, first_of(value))

        return fixed(SPACE, choose), asked

    plain, asked = pick({"schedule": "own"})
    assert plain == {"matcher": "bipartite", "schedule": {}, "proportional": True}
    assert asked == ["matcher", "schedule", "proportional"]
    guided, asked = pick({"matcher": "guided"})
    assert guided["matcher"] == {"name": "guided", "split": "importance"}
    assert guided["schedule"] == {"depths": [0.1]}
    assert "matcher=guided.split" in asked


def test_every_option_and_every_end_is_in_a_corner():
    seen = {(path, text_of(value)) for corner in corners(SPACE) for path, value in corner.items()}
    for value in open_values(SPACE):
        labels = list(value.options) if isinstance(value, Choice) else [text_of(value.low), "0.3"]
        assert {(value.path, label) for label in labels} <= seen


def test_what_is_shown_of_a_fraction_is_what_was_drawn():
    for value in (0.123456, 0.9999999, 1234.56, 1e-7 / 3):
        assert float(text_of(rounded(value))) == rounded(value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"positions": {"any": []}}, "at least one option"),
        ({"positions": {"any": ["keep", "keep"]}}, "same label"),
        ({"positions": {"any": ["keep"], "or": 1}}, "no other key"),
        ({"schedule": {"any": [{"ratio": 0.4}, {"ratio": 0.3}]}}, "needs a name"),
        ({"schedule": {"ratio": {"from": 0.5, "to": 0.3}}}, "to a larger one"),
        ({"schedule": {"ratio": {"from": "a", "to": 0.3}}}, "from a number"),
        ({"schedule": {"ratio": {"from": 0.3}}}, "to a larger one"),
        ({"schedule": {"ratio": {"to": 0.3}}}, "from a number"),
        ({"schedule": {"ratio": {"from": 0.3, "to": 0.5, "stp": 0.1}}}, "Did you mean 'step'"),
        ({"schedule": {"ratio": {"from": 0.3, "to": 0.5, "step": 1.0}}}, "fits into"),
        ({"schedule": {"ratio": {"from": 0.0, "to": 0.5, "log": True}}}, "above 0"),
        ({"schedule": {"after_layer": {"from": 1, "to": 5, "step": 0.5}}}, "whole step"),
        ({"positions": "keep"}, "nothing varies"),
        ({"positions": {"any": ["keep"]}}, "nothing varies"),
        ({"position": {"any": ["keep", "renumber"]}}, "Did you mean 'positions'"),
        (["positions"], "the space is a mapping"),
    ],
)
def test_spaces_that_cannot_be_meant(space, message):
    with pytest.raises(SearchError, match=message):
        SearchStudy.parse({**STUDY, "space": space})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trails": 5}, "Did you mean 'trials'"),
        ({"trials": 0}, "greater than or equal to 1"),
        ({"retention": []}, "at least 1"),
        ({"retention": [0.5, 0.5]}, "twice"),
        ({"retention": 1.5}, "less than or equal to 1"),
        ({"retention": True}, "retention"),
        ({"sampler": "bayes"}, "tpe"),
        ({"prune": 0.6}, "less than 0.5"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"held_out": STUDY["task"]}, "those of the search"),
        ({"held_out": 1.0}, "held_out"),
        ({"start": 5}, "start is a list"),
        ({"start": {"vanilla": "fastv"}}, "another cell"),
        ({"start": ["fastvv"]}, "fastv"),
        ({"base": "lightvk"}, "Did you mean 'lightkv'"),
    ],
)
def test_studies_that_cannot_be_meant(change, message):
    with pytest.raises(ConfigError, match=message):
        SearchStudy.parse({**STUDY, **change})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"matcher": {"any": ["bipartite", "guidd"]}}, "guided"),
        ({"matcher": {"name": "guided", "protect": {"from": 0.0, "to": 1.0}}}, "less than 1"),
        ({"schedule": {"ratoi": {"from": 0.1, "to": 0.2}}}, "ratio"),
    ],
)
def test_options_that_cannot_be_built_are_found_before_a_model_is_loaded(space, message):
    with pytest.raises(SearchError, match=message):
        check_space(SearchStudy.parse({**STUDY, "space": space}))


def test_a_study_is_read_back_and_its_length_may_change(tmp_path):
    study = SearchStudy.parse({**STUDY, "start": ["fastv"], "held_out": 0.5})
    assert SearchStudy.parse(study.plain()) == study
    longer = study.model_copy(update={"trials": 7})
    assert longer.identity() == study.identity()
    assert study.model_copy(update={"seed": 1}).identity() != study.identity()
    path = tmp_path / "study.yaml"
    path.write_text("retention: 0.5\nretention: 0.3\n")
    with pytest.raises(SearchError, match="twice"):
        SearchStudy.read(path)
    with pytest.raises(SearchError, match="cannot read"):
        SearchStudy.read(Path(tmp_path) / "none.yaml")


def test_a_design_changes_the_base_as_a_label_of_a_grid_does():
    study = SearchStudy.parse({**STUDY, "seed": 3})
    made = design(study, {"matcher": "random-bipartite", "schedule": {"ratio": 0.4}})
    assert made["matcher"] == {"name": "random-bipartite", "seed": 3}
    assert made["schedule"]["ratio"] == 0.4
    assert made["schedule"]["windows"] == study.base["schedule"]["windows"]


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"lightkv\[search\]"):
        optuna_library()
