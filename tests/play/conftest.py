"""The playground around the bundled model, which is loaded once."""

from __future__ import annotations

import base64

import pytest

NEEDS = "needs the extra `play`: pip install 'lightkv[play]'"


@pytest.fixture(scope="session")
def offers(tmp_path_factory):
    """The bundled model, with a pipeline file beside the presets."""
    from lightkv.core.pipeline.pipeline import get_preset
    from lightkv.play.offers import Offers

    mine = tmp_path_factory.mktemp("pipelines") / "mine.yaml"
    named = get_preset("tome").model_copy(update={"name": "</script><b>mine"})
    mine.write_text(named.to_yaml())
    return Offers(["demo"], [mine])


@pytest.fixture(scope="session")
def app(offers):
    pytest.importorskip("fastapi", reason=NEEDS)
    from lightkv.play.app import build_app
    from lightkv.play.server import LOOPBACK

    return build_app(offers, LOOPBACK)


@pytest.fixture(scope="session")
def scene(offers):
    """Held-out scene 0 in base64, and its questions."""
    file, questions = offers.scene("demo", 0)
    return base64.b64encode(file).decode("ascii"), questions
