"""The releases that are declared, pinned and named in errors are the same."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import lightkv
from lightkv.adapters.hf.contact import TESTED

ROOT = Path(__file__).parents[1]


def pinned(file):
    [line] = re.findall(r"^transformers==(.+)$", (ROOT / file).read_text(), re.M)
    return Version(line)


def test_the_supported_range_is_the_one_that_is_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [needed] = [
        requirement
        for requirement in map(Requirement, project["dependencies"])
        if requirement.name == "transformers"
    ]
    [floor] = needed.specifier  # and no cap
    oldest, newest = pinned("constraints-compat-oldest.txt"), pinned("constraints.txt")
    assert floor.operator == ">="
    assert Version(floor.version).release == oldest.release[:2]
    assert tuple(f"{pin.major}.{pin.minor}" for pin in (oldest, newest)) == TESTED


def test_the_version_is_said_alike_everywhere():
    """The changelog is asked when a release is checked: until then it has unreleased changes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"] == {"version": {"attr": "lightkv.__version__"}}
    assert lightkv.__version__ == citation["version"]
    assert project["project"]["license"] == citation["license"]
    assert project["project"]["urls"]["Paper"] == citation["preferred-citation"]["url"]
