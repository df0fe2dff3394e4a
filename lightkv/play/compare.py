"""One question under two strategies, and without compression: answers, costs, and what was merged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from lightkv.checkpoints.answers import Answer, Compared, generate
from lightkv.checkpoints.prompts import build_inputs
from lightkv.checkpoints.remarks import remarks
from lightkv.core.errors import LightKVError
from lightkv.core.pipeline.pipeline import PipelineSpec
from lightkv.core.run.session import prepare
from lightkv.lab.pictures.collect import drawn
from lightkv.lab.pictures.page import page
from lightkv.play.asked import Asked
from lightkv.play.offers import UNCOMPRESSED, Loaded, Offers
from lightkv.play.uploads import decoded, picture_from

if TYPE_CHECKING:
    from PIL import Image

_KEEPS_ALL = PipelineSpec(name=UNCOMPRESSED, matcher="keep-all", schedule=())


def compare(offers: Offers, asked: Asked) -> dict[str, Any]:
    """Answer a question under each strategy, one after the other; the model is restored after each.

    Everything that can be refused without the model is refused first. A strategy that cannot work on
    this prompt has its error in its own column, and the others are answered.

    Returns:
        plain data: `columns`, each with `strategy`, `error` (or None) and what `Answer.to_dict` gives;
        `picture`, the page of `lightkv show` about the compressed ones, or None, and then
        `no_picture` says why.

    Raises:
        LightKVError: what the page asks for cannot be: see `Asked.check`, `picture_from`,
            `Offers.spec`, `Offers.load` and `build_inputs`.
    """
    asked.check()
    specs = [offers.spec(name) for name in asked.strategies]
    picture = picture_from(decoded(asked.picture))
    loaded = offers.load(asked.model)
    inputs = build_inputs(loaded.processor, asked.question, [picture], loaded.model)
    answers: list[Answer | str] = []
    plain = None
    if asked.uncompressed:
        plain = _answer(loaded, _KEEPS_ALL, None, inputs, asked.max_new_tokens)
    for spec in specs:
        answers.append(_answer(loaded, spec, asked.retention, inputs, asked.max_new_tokens))
    before = plain if isinstance(plain, Answer) else None
    columns = [] if plain is None else [_column(UNCOMPRESSED, plain, None)]
    columns += [
        _column(name, each, before) for name, each in zip(asked.strategies, answers, strict=True)
    ]
    compressed = [each for each in answers if isinstance(each, Answer)]
    return {"columns": columns, **_picture(loaded, compressed, asked.question, picture, inputs)}


def _answer(
    loaded: Loaded, spec: PipelineSpec, retention: float | None, inputs: Any, most: int
) -> Answer | str:
    """A timed answer, or why there is none."""
    options: dict[str, Any] = {"profile": True, "trace": True, "gap_warning": False}
    try:
        session = prepare(loaded.model, spec, retention=retention, keep_reports=1, **options)
        # The first pass plans the stages and warms the caches of the machine; it is not timed.
        generate(session, loaded.processor, inputs, 1)
        return generate(session, loaded.processor, inputs, most)
    except LightKVError as error:
        return str(error)
    except torch.OutOfMemoryError:
        return "the device has too little memory for this prompt: give a smaller picture."


def _column(strategy: str, answer: Answer | str, plain: Answer | None) -> dict[str, Any]:
    if isinstance(answer, str):
        return {"strategy": strategy, "error": answer}
    said = [] if plain is None else remarks(answer, Compared((plain,), (answer,)))
    if answer.report.gap is not None:
        said.insert(0, f"{answer.report.gap}.")
    return {
        "strategy": strategy,
        "error": None,
        **answer.to_dict(),
        "vision_tokens": answer.report.samples[0].original,
        "remarks": said,
    }


def _picture(
    loaded: Loaded,
    answers: Iterable[Answer],
    question: str,
    picture: Image.Image,
    inputs: Any,
) -> dict[str, Any]:
    """The page of `lightkv show`, or why there is none."""
    runs = [(question, answer) for answer in answers]
    if not runs:
        return {"picture": None, "no_picture": "no strategy has answered"}
    try:
        shown = drawn(runs, [picture], inputs, loaded.processor, loaded.model, name=loaded.name)
    except LightKVError as error:
        return {"picture": None, "no_picture": str(error)}
    return {"picture": page(shown), "no_picture": ""}
