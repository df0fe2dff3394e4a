"""What is said beside the figures of an answer: why nothing was compressed, why it was not faster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightkv.checkpoints.answers import Answer
    from lightkv.core.run.report import RunReport

CHANCE = 1.02
"""Times vanilla's: what is slower by less is chance, as one run of each is timed."""


def remarks(answer: Answer, vanilla: Answer | None, default: str = "") -> list[str]:
    """Sentences about a compressed answer.

    Args:
        answer: of the compressed model.
        vanilla: of the uncompressed one, if that ran too.
        default: the strategy whose own retention it was; "" where the user asked for one.
    """
    report = answer.report
    found = []
    if not _vision(report):
        found.append(
            "The prompt has no picture, so there were no vision tokens to compress and nothing was "
            "saved. Add --image FILE."
        )
    elif default and isinstance(report.asked_retention, float):
        found.append(
            f"Retention {report.asked_retention:g} is the default of {default}; --retention asks for "
            "another."
        )
    if report.shift is not None:
        found.append(f"{report.shift[0].upper()}{report.shift[1:]}.")
    if vanilla is not None:
        found += _slower(answer, vanilla)
    return found


def _slower(answer: Answer, vanilla: Answer) -> Iterator[str]:
    """Why times are longer than those of the uncompressed model, where they are."""
    new, old = answer.report, vanilla.report
    slower = False
    if _longer(new.time_to_first_token, old.time_to_first_token):
        slower = True
        yield _first_token(new, old)
    if _longer(new.time_per_token, old.time_per_token):
        slower = True
        yield (
            "Each further token took longer: a step reads all weights, and the smaller cache saves less "
            "than the session's hooks take around each layer. That turns with longer prompts and larger "
            "models."
        )
    if answer.tokens > vanilla.tokens and answer.seconds > vanilla.seconds:
        yield (
            f"The compressed answer has {answer.tokens} tokens and the uncompressed one "
            f"{vanilla.tokens}, so the times of whole answers do not compare."
        )
    if slower:
        yield "One run of each was timed; a few percent are chance."


def _first_token(new: RunReport, old: RunReport) -> str:
    """Why the first token came later."""
    after, before = new.time_to_first_token, old.time_to_first_token
    assert after is not None
    assert before is not None
    text = f"The first token took {_ms(after)} instead of {_ms(before)}: "
    if not _vision(new):
        return text + "the session's hooks take time around each layer, and nothing was compressed."
    stages = sum(new.role_times.values())
    parts = ", ".join(f"{role} {_ms(seconds)}" for role, seconds in new.role_times.items())
    text += f"the stages took {_ms(stages)}" + (f" ({parts})" if parts else "")
    saved = before - (after - stages)
    text += (
        f", and the layers behind them saved only {_ms(saved)}"
        if saved > 0
        else ", and the layers behind them were not faster"
    )
    rows = new.samples
    tokens = sum(row.original + row.text_tokens for row in rows)
    left = sum(row.flops for row in rows) / sum(row.flops_vanilla for row in rows)
    return text + (
        f". Of the FLOPs of this prompt of {tokens:,} tokens {100 * left:.0f} % are left; a stage costs "
        "the same for a small model as for a large one, so compression pays with longer prompts and "
        "larger models."
    )


def _vision(report: RunReport) -> int:
    return sum(sample.original for sample in report.samples)


def _longer(new: float | None, old: float | None) -> bool:
    return bool(new and old and new > CHANCE * old)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"
