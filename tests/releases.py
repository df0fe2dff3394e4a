"""What older releases of transformers cannot do by themselves, for the `cannot` of the contracts.

Each entry was seen on the plain model; tests/adapters/test_releases.py checks that it is still so, and
that it is right on the releases after.
"""

from importlib.metadata import version
from typing import Any

import pytest
import transformers
from packaging.version import Version

INSTALLED = Version(version("transformers"))


def before(release: str) -> bool:
    """Whether the installed transformers is older."""
    return Version(release) > INSTALLED


LATER_IMAGE = (
    {
        "later image": "before 5.23 transformers gives a picture in a later turn other positions, or "
        "another mask, than one prompt does (test_releases.py)"
    }
    if before("5.23")
    else {}
)
VIDEO_BEAMS = (
    dict.fromkeys(
        ("beams", "sampling"),
        "before 5.21 transformers loses the videos where generate repeats rows (test_releases.py)",
    )
    if before("5.21")
    else {}
)
RECURRENT_BEAMS = (
    {"beams": "before 5.21 transformers scores beams of Qwen3.5 otherwise than one prompt does"}
    if before("5.21")
    else {}
)
PLAIN_BEAMS = (
    {
        "beams": "before 5.21 transformers repeats the pixels of this model patch by patch, or tile by "
        "tile, where generate repeats rows (test_grid_releases.py)"
    }
    if before("5.21")
    else {}
)


def pixels_of(older: str) -> str:
    """The argument with the pixels of images, where 5.21 gave up a family's own name for it."""
    return older if before("5.21") else "pixel_values"


def needs_class(name: str) -> Any:
    """A class of transformers; a test file that needs one of a later release is skipped whole.

    Call it at the top of the file, before what derives from the class:

        Glm46VConfig = needs_class("Glm46VConfig")
    """
    found = getattr(transformers, name, None)
    if found is None:
        pytest.skip(f"cannot: transformers {INSTALLED} has no {name}", allow_module_level=True)
    return found
