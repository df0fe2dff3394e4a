"""A schedule that is not solved yet: what is wanted of it, for a decoder of any depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import ValidationError, field_validator

from lightkv.core.contracts import WindowSpec
from lightkv.core.errors import ConfigError
from lightkv.core.modality import Share
from lightkv.core.pipeline.schedule import Schedule
from lightkv.core.pipeline.solver import Surcharge, check_retention
from lightkv.core.pipeline.stage_spec import Site
from lightkv.core.stage.cache_entries import Scope
from lightkv.core.strict import Strict

DEFAULT_RETENTION = 0.55
DEFAULT_RATIOS = (0.4, 0.5)
"""What stages remove in a recipe that does not say, the first of them that reaches the retention.

Half of a window at a stage, as LightKV publishes it, makes the most divergent token merge too, and
that is what costs most (docs/evidence.md). But only half reaches the smallest retentions of shallow
models.
"""


class Recipe(Strict):
    """A schedule that is solved when the depth of the model is known.

    Attributes:
        retention: wanted mean over all layers of the share of vision tokens in the cache; or modality →
            that of its tokens (`{image: 0.5, audio: 0.7}`). Those that are not named are left alone.
        windows: one entry for each stage; the last is repeated where more stages are needed.
        ratio: removed share of each stage; the first of `DEFAULT_RATIOS` that reaches `retention` if
            None.
        after_layer: a single stage after this many layers, with its ratio solved, instead.
        depths: stages after these shares of the depth instead, such as (0.25, 0.5, 0.75). What they
            keep is then solved to meet `retention`. A first one of 0 stands before the decoder.
        ratios: with `depths`, the removed share of each stage that solving starts from; `ratio`
            for all if None (0.5 if that is None too).
        solve: with `depths`, what meets `retention`. `power`: what the stages keep is raised to one
            common power. `first`: what the first stage keeps is solved, and the others keep their
            ratios, so that few tokens do not become none in late layers; where these alone remove
            too much, the first removes nothing and the others are raised.
        overrides: role → component that replaces the pipeline's, one entry for each stage; the last
            is repeated where there are more stages.
        site: `cache`: a single stage on the cache of every layer, with its ratio solved, instead.
        scope: of the stage on the cache: `vision`, or `all` with text.
    """

    retention: Share = DEFAULT_RETENTION
    windows: tuple[WindowSpec, ...] = (None, None, None)
    ratio: float | None = None
    after_layer: int | None = None
    depths: tuple[float, ...] | None = None
    ratios: tuple[float, ...] | None = None
    solve: Literal["power", "first"] = "power"
    overrides: tuple[dict[str, Any], ...] = ()
    site: Site = "layers"
    scope: Scope = "vision"

    @field_validator("retention", mode="before")
    @classmethod
    def _retention_is_share(cls, value: Any) -> Any:
        check_retention(value)
        return value

    @classmethod
    def _refused(cls, error: ValidationError) -> ConfigError:
        found = super()._refused(error)
        found.field = "schedule" if found.field is None else f"schedule.{found.field}"
        return found

    @property
    def searches_layers(self) -> bool:
        """Whether the layers are looked for, instead of given by the recipe."""
        return self.site == "layers" and self.after_layer is None and self.depths is None

    @property
    def tried_ratios(self) -> tuple[float, ...]:
        """Removed shares of each stage where layers are looked for: the first that reaches is taken."""
        return DEFAULT_RATIOS if self.ratio is None else (self.ratio,)

    @property
    def starting_ratios(self) -> tuple[float, ...]:
        """Removed shares of the stages at `depths` that solving starts from."""
        if self.ratios is not None:
            return self.ratios
        return (DEFAULT_RATIOS[-1] if self.ratio is None else self.ratio,) * len(self.depths or ())

    @property
    def before_decoder(self) -> bool:
        """Whether depths begin before the first layer."""
        return self.depths is not None and self.depths[:1] == (0.0,)

    def schedule(
        self,
        num_layers: int,
        min_layer: int = 0,
        surcharge: Surcharge | None = None,
        *,
        allowed: Sequence[int] | None = None,
    ) -> Schedule:
        """The schedule for a decoder of `num_layers` layers, no stage before `min_layer` of them.

        Layers that are searched, or follow from `depths`, are among those `allowed` (increasing; by
        default all from `min_layer` on), and before the first layer only where `depths` say 0.
        `after_layer` is taken as it is. What a host charges for a choice of layers (`surcharge`) counts
        where they are searched.

        Raises:
            ConfigError: the retention is out of reach; the message names the range.
        """
        if allowed is None:
            allowed = range(min_layer, num_layers)
        if self.before_decoder and 0 not in allowed:
            raise ConfigError(
                "the first stage stands before the decoder, and this model lets no stage act there",
                field="schedule.depths",
                value=self.depths,
                remedy="leave the depth of 0 and its ratio out",
            )
        first = 0 if self.before_decoder else 1
        allowed = [place for place in allowed if place >= first]
        placed = self._of_modalities(num_layers, allowed, surcharge)
        if not self.overrides:
            return placed
        last = len(self.overrides) - 1
        return Schedule(
            stage.model_copy(update={"overrides": self.overrides[min(number, last)]})
            for number, stage in enumerate(placed.stages)
        )

    def _of_modalities(
        self, num_layers: int, allowed: Sequence[int], surcharge: Surcharge | None
    ) -> Schedule:
        """Stages where the modality that is to keep least wants them, with a ratio for each of them."""
        if not isinstance(self.retention, dict):
            return self._placed(num_layers, allowed, surcharge)
        if self.scope == "all":
            raise ConfigError(
                "where text takes part, one retention is for all entries",
                field="schedule.retention",
                value=self.retention,
                remedy="give one number, or a stage on the cache of vision tokens alone",
            )
        lowest = self.model_copy(update={"retention": min(self.retention.values())})
        placed = lowest._placed(num_layers, allowed, surcharge)
        return placed.by_modality(num_layers, self.retention)

    def _placed(
        self, num_layers: int, allowed: Sequence[int], surcharge: Surcharge | None
    ) -> Schedule:
        window = self.windows[0] if self.windows else None
        assert not isinstance(self.retention, dict)
        if self.site == "cache":
            for other in ("after_layer", "depths"):
                if getattr(self, other) is not None:
                    raise ConfigError(
                        "a stage on the cache acts in every layer",
                        field=f"schedule.{other}",
                        value=getattr(self, other),
                        remedy=f"leave {other} or site: cache out",
                    )
            return Schedule.on_cache(self.retention, window, self.scope)
        if self.scope != "vision":
            raise ConfigError(
                "text tokens take part on the cache site only",
                field="schedule.scope",
                value=self.scope,
                remedy="add site: cache, or leave scope out",
            )
        self._check_what_depths_need()
        if self.after_layer is not None:
            return Schedule.single(num_layers, self.retention, self.after_layer, window)
        if self.depths is not None:
            ratios = self.starting_ratios
            return Schedule.at_depths(
                num_layers,
                self.retention,
                self.depths,
                ratios,
                self.windows,
                allowed=allowed,
                solve=self.solve,
            )
        for ratio in self.tried_ratios[:-1]:
            try:
                return self._searched(num_layers, ratio, allowed, surcharge)
            except ConfigError:  # out of reach: a harder one may reach it
                continue
        return self._searched(num_layers, self.tried_ratios[-1], allowed, surcharge)

    def _searched(
        self, num_layers: int, ratio: float, allowed: Sequence[int], surcharge: Surcharge | None
    ) -> Schedule:
        """Stages of one ratio after the layers that suit, as many as the retention takes."""
        assert not isinstance(self.retention, dict)
        # A model that leaves fewer places than there are windows gets the first of these.
        windows = list(self.windows[: len(allowed)] or self.windows)
        while True:
            try:
                return Schedule.for_retention(
                    num_layers,
                    self.retention,
                    windows,
                    ratio,
                    surcharge=surcharge,
                    allowed=allowed,
                )
            except ConfigError:
                if not windows or len(windows) >= len(allowed) or not 0 < self.retention <= 1:
                    raise
                windows.append(windows[-1])

    def _check_what_depths_need(self) -> None:
        """Raise where the recipe has what excludes depths, or what means nothing without them."""
        if self.depths is not None:
            if self.after_layer is not None:
                raise ConfigError(
                    "after_layer makes a single stage, and depths make several",
                    field="schedule.depths",
                    value=self.depths,
                    remedy="leave one of them out: null takes away what a base pipeline has",
                )
            return
        for name, unset in (("ratios", None), ("solve", "power")):
            if getattr(self, name) != unset:
                raise ConfigError(
                    f"{name} tells what stages at given depths remove, and there are none",
                    field=f"schedule.{name}",
                    value=getattr(self, name),
                    remedy=f"add depths, or leave {name} out",
                )
