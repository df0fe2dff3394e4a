"""What is said beside the figures of an answer: why nothing was compressed, why it was not faster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightkv.checkpoints.answers import Answer, Compared, Spread
    from lightkv.core.run.report import RunReport

DIGITS_ONLY = (
    "The bundled model knows coloured handwritten digits on generated ground and nothing else; of any "
    "other picture its answer means nothing."
)


def remarks(
    answer: Answer, compared: Compared | None, default: str = "", *, bundled: bool = False
) -> list[str]:
    """Sentences about a compressed answer.

    Args:
        answer: of the compressed model.
        compared: it and others, beside those of the uncompressed model, if that ran too.
        default: the strategy whose own retention it was; "" where the user asked for one.
        bundled: whether a bundled model was given a picture of the user's.
    """
    report = answer.report
    found = [DIGITS_ONLY] if bundled else []
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
    if compared is not None:
        found += _slower(answer, compared)
    return found


def _slower(answer: Answer, compared: Compared) -> Iterator[str]:
    """Why times are longer than those of the uncompressed model, where every run of it was shorter."""
    times = compared.times
    if min(len(compared.vanilla), len(compared.compressed)) < 2:
        yield "One run of each was timed, so a difference of times may be chance."
        return
    longer = {label: pair for label, pair in times.items() if pair[1].low > pair[0].high}
    if "first token" in longer:
        yield _first_token(answer.report, *longer["first token"])
    if "each further token" in longer:
        yield (
            "Each further token took longer in every run. Likely causes: a step reads all weights, and "
            "the smaller cache saves less than the session's hooks take around each layer. That turns "
            "with longer prompts and larger models."
        )
    vanilla = compared.vanilla[0]
    if answer.tokens > vanilla.tokens and "whole answer" in longer:
        yield (
            f"The compressed answer has {answer.tokens} tokens and the uncompressed one "
            f"{vanilla.tokens}, so the times of whole answers do not compare."
        )
    unclear = [label for label, (old, new) in times.items() if old.overlaps(new)]
    if unclear:
        yield (
            f"Of {', '.join(unclear)} the times of {len(compared.vanilla)} runs of each overlap, so "
            "their difference may be chance."
        )


def _first_token(new: RunReport, plain: Spread, compressed: Spread) -> str:
    """Why the first token came later; `new` is the report of the run in the middle."""
    before, after = plain.median, compressed.median
    text = f"The first token took {_ms(after)} instead of {_ms(before)}, medians of runs in turns: "
    if not _vision(new):
        return (
            text
            + "nothing was compressed; the session's hooks around each layer are the likely cause."
        )
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


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"
