"""The points of a sweep: every strategy at every retention of a range, counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightkv.cli.plan.defaults import RANGE
from lightkv.cli.plan.options import build_pipeline
from lightkv.cli.plan.refusals import check_served
from lightkv.core.cost.counting import Savings, count_savings
from lightkv.core.errors import ConfigError
from lightkv.core.layout import VisionLayout

if TYPE_CHECKING:
    from lightkv.checkpoints.published import Description
    from lightkv.core.pipeline.pipeline import PipelineSpec

MOST_POINTS = 200


def retentions_of(text: str) -> list[float]:
    """`0.2:1:0.1` → 0.2, 0.3, … 1.0.

    Raises:
        ConfigError: not a range within (0, 1], or one of too many points.
    """
    try:
        first, last, step = (float(part) for part in text.split(":"))
    except ValueError:
        first, last, step = 0.0, 0.0, 0.0
    if not (0 < first <= last <= 1 and 0 < step <= 1) or (last - first) / step >= MOST_POINTS:
        raise ConfigError(
            "a range is START:STOP:STEP with 0 < START ≤ STOP ≤ 1 and a positive STEP, "
            f"of at most {MOST_POINTS} points",
            field="--range",
            value=text,
            remedy=f"such as {RANGE}",
        )
    count = int((last - first) / step + 1e-9) + 1
    return [round(first + number * step, 9) for number in range(count)]


@dataclass(frozen=True)
class Point:
    """A strategy at a wanted retention; `savings` is None where no schedule reaches it, for `reason`."""

    strategy: str
    wanted: float
    savings: Savings | None
    reason: str = ""

    @property
    def ratios(self) -> dict[str, float]:
        """Over the vanilla ones: FLOPs of the prefill, compression included, and of prefill and
        decoding; bytes of vision keys and values, and of the whole cache after the last token."""
        assert self.savings is not None
        after, before = self.savings.compressed, self.savings.vanilla
        return {
            "prefill": (after.prefill_flops + after.compression_flops) / before.prefill_flops,
            "flops": after.flops / before.flops,
            "vision_kv": after.vision_kv_bytes / before.vision_kv_bytes,
            "kv": after.kv_bytes / before.kv_bytes,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        found: dict[str, Any] = {"strategy": self.strategy, "wanted": self.wanted}
        if self.savings is None:
            return {**found, "reason": self.reason}
        after = self.savings.compressed
        return {
            **found,
            "retention": self.savings.retention,
            "prefill_flops": after.prefill_flops + after.compression_flops,
            "flops": after.flops,
            "vision_kv_bytes": after.vision_kv_bytes,
            "kv_bytes": after.kv_bytes,
            **{f"{name}_ratio": ratio for name, ratio in self.ratios.items()},
        }


def count_points(
    described: Description,
    layout: VisionLayout,
    strategies: Mapping[str, PipelineSpec],
    retentions: Sequence[float],
    new_tokens: int,
) -> list[Point]:
    """Every strategy, under its name, at every retention.

    Raises:
        ConfigError: a strategy that no retention of the range suits.
        ModelError: a strategy that the model's adapter refuses.
    """
    shape, points = described.shape, []
    for strategy, spec in strategies.items():
        reached, refused = False, None
        for wanted in retentions:
            try:
                pipeline = build_pipeline(spec, shape.num_layers, wanted, places=described.places)
                if not reached:
                    check_served(described, pipeline, layout)
                savings = count_savings(pipeline, shape, layout, new_tokens)
            except ConfigError as error:
                points.append(Point(strategy, wanted, None, str(error)))
                refused = error
                continue
            reached = True
            points.append(Point(strategy, wanted, savings))
        if not reached and refused is not None:
            raise refused
    return points
