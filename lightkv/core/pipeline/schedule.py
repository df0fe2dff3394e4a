"""When to compress, how much, and what that means for the KV cache: schedules and retention.

Retention is the mean over *all* decoder layers of the share of vision tokens in the KV cache. With
`after_layer = λ` exactly λ layers see (and cache) the tokens before the stage.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from lightkv.core.contracts import WindowSpec
from lightkv.core.errors import ConfigError
from lightkv.core.modality import in_order, most_removed, named, removed, share_text
from lightkv.core.needs import Needs
from lightkv.core.pipeline.places import Places, listed_places, nearest_place
from lightkv.core.pipeline.solver import (
    SOLVERS,
    TOLERANCE,
    Surcharge,
    check_depths,
    check_retention,
    check_solver_arguments,
    more_stages,
    solve,
    solve_power,
    stack,
)
from lightkv.core.pipeline.stage_spec import StageSpec, check_windows_shrink, read_stage
from lightkv.core.stage.cache_entries import Scope
from lightkv.core.strict import is_whole

NO_NEEDS: Needs = frozenset()


def _nothing(number: int) -> Needs:
    """What a stage needs whose components are not known."""
    return NO_NEEDS


class Schedule:
    """An increasing sequence of stages between layers, and at most one on the cache after them.

    Raises:
        ConfigError: layers not strictly increasing, windows that grow, a ratio outside [0, 1), a
            stage after one on the cache.
    """

    def __init__(self, stages: Iterable[StageSpec | dict[str, Any]]) -> None:
        if isinstance(stages, str | Mapping) or not isinstance(stages, Iterable):
            raise ConfigError(
                "a schedule is a list of stages",
                field="schedule",
                value=stages,
                remedy="such as [{after_layer: 15, windows: 4, ratio: 0.5}]",
            )
        self.stages = tuple(read_stage(i, stage) for i, stage in enumerate(stages))
        for number, (before, after) in enumerate(itertools.pairwise(self.stages), start=1):
            if before.site == "cache":
                raise ConfigError(
                    "the cache is compressed once, when everything between the layers is done",
                    field=f"schedule[{number}].site",
                    value=after.site,
                    remedy="list one stage with site: cache, as the last",
                )
            if (
                after.after_layer is not None
                and before.after_layer is not None
                and after.after_layer <= before.after_layer
            ):
                raise ConfigError(
                    f"stage {number} comes after layer {after.after_layer}, "
                    f"not later than stage {number - 1} (after layer {before.after_layer})",
                    field=f"schedule[{number}].after_layer",
                    value=after.after_layer,
                    remedy="list the stages with strictly increasing after_layer",
                )
            check_windows_shrink(number, before.windows, after.windows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self.stages == other.stages

    def __hash__(self) -> int:
        return hash(repr(self.stages))

    def __repr__(self) -> str:
        stages = ", ".join(
            ("cache" if s.site == "cache" else f"λ={s.after_layer}")
            + f" ρ={share_text(s.ratio)}"
            + (f" w={s.windows}" if s.windows else "")
            for s in self.stages
        )
        return f"Schedule({stages})"

    def __len__(self) -> int:
        return len(self.stages)

    @property
    def after_layers(self) -> tuple[int, ...]:
        """λ of the stages between layers."""
        return tuple(s.after_layer for s in self.stages if s.after_layer is not None)

    @property
    def cache(self) -> StageSpec | None:
        """The stage on the cache, if there is one."""
        last = self.stages[-1] if self.stages else None
        return last if last is not None and last.site == "cache" else None

    def check(self, num_layers: int, min_layer: int = 0) -> None:
        """Raises `ConfigError` for a stage before `min_layer` layers or beyond the decoder."""
        self.check_places(num_layers, Places(first=min_layer))

    def check_places(
        self, num_layers: int, places: Places, needs: Callable[[int], Needs] = _nothing
    ) -> None:
        """Refuse stages that the decoder does not let act where they stand.

        A stage that removes nothing may stand anywhere in the decoder.

        Args:
            num_layers: decoder layers.
            places: where the decoder lets stages act.
            needs: number of a stage → what its components need.

        Raises:
            ConfigError: naming the layer, the reason and the nearest place that works.
        """
        for number, stage in enumerate(self.stages):
            if stage.after_layer is not None:
                field = f"schedule[{number}].after_layer"
                where, asked = Places(), NO_NEEDS
                if most_removed(stage.ratio) > 0:
                    where, asked = places, needs(number)
                where.check(stage.after_layer, num_layers, asked, field)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that have ratios of their own in some stage; none where all tokens are alike."""
        return in_order(name for stage in self.stages for name in named(stage.ratio))

    def shares(self, num_layers: int, modality: str | None = None) -> tuple[float, ...]:
        """Share of the vision tokens that each layer caches, without rounding to whole tokens.

        That is what it sees, less what a stage on the cache removes. Of all tokens, or of those of a
        modality; where modalities have ratios of their own, of all means of each modality alike.
        """
        self.check(num_layers)
        if modality is None and self.modalities:
            each = [self.shares(num_layers, name) for name in self.modalities]
            return tuple(math.fsum(layer) / len(each) for layer in zip(*each, strict=True))
        kind = modality or ""
        left = 1.0 if self.cache is None else 1.0 - removed(self.cache.ratio, kind)
        ratios = {s.after_layer: removed(s.ratio, kind) for s in self.stages}
        shares, share = [], 1.0
        for layer in range(num_layers):
            share *= 1.0 - ratios.get(layer, 0.0)
            shares.append(share * left)
        return tuple(shares)

    def retention(self, num_layers: int, modality: str | None = None) -> float:
        """Mean over the layers of the share of vision tokens in the cache, of all or of a modality.

        The published operating point: 40 layers, stages after 15, 23, 31, ρ = ½ → 0.553.
        """
        return math.fsum(self.shares(num_layers, modality)) / num_layers

    def to_list(self) -> list[dict[str, Any]]:
        """Plain data for YAML; `Schedule(schedule.to_list())` gives the schedule back."""
        return [stage.model_dump(mode="json", exclude_defaults=True) for stage in self.stages]

    # -- other notations ------------------------------------------------------------------------

    @classmethod
    def from_release(cls, layers: str, windows: str, ratios: str) -> Schedule:
        """From the strings of the authors' released scripts, `("12-18-24", "4-2-1", "0.5-0.5-0.5")`.

        The release compresses after layer *index* λ, which is `after_layer = λ + 1`. Lists of one
        entry are broadcast.
        """
        try:
            indices = [int(part) for part in layers.split("-")]
            sides = [int(part) for part in windows.split("-")]
            shares = [float(part) for part in ratios.split("-")]
        except ValueError as error:
            raise ConfigError(
                str(error),
                field="from_release",
                value=(layers, windows, ratios),
                remedy='numbers joined by "-", such as "12-18-24"',
            ) from error
        count = max(len(indices), len(sides), len(shares))
        sides, shares = _broadcast("windows", sides, count), _broadcast("ratios", shares, count)
        if len(indices) != count:
            raise ConfigError(
                f"{len(indices)} layers for {count} stages",
                field="layers",
                value=layers,
                remedy="name a layer for each stage",
            )
        return cls(
            {"after_layer": index + 1, "windows": side, "ratio": share}
            for index, side, share in zip(indices, sides, shares, strict=True)
        )

    def by_modality(self, num_layers: int, retention: Mapping[str, float]) -> Schedule:
        """The same stages, each with a ratio for each modality that gives its retention.

        What the stages keep is raised to a common power for each modality, 0 for one that keeps all.

        Args:
            num_layers: decoder layers.
            retention: modality → wanted mean over the layers of the share in the cache.
        """
        base = [stage.ratio for stage in self.stages if not isinstance(stage.ratio, dict)]
        layers = [stage.after_layer or 0 for stage in self.stages]
        solved = {
            name: solve_power(num_layers, wanted, layers, base)
            if wanted < 1.0
            else [0.0] * len(base)
            for name, wanted in retention.items()
        }
        return Schedule(
            stage.model_copy(update={"ratio": {name: each[i] for name, each in solved.items()}})
            for i, stage in enumerate(self.stages)
        )

    # -- solvers --------------------------------------------------------------------------------

    @classmethod
    def on_cache(
        cls, retention: float, windows: WindowSpec = None, scope: Scope = "vision"
    ) -> Schedule:
        """One stage on the cache of every layer: 1 − ρ = retention.

        Raises:
            ConfigError: retention outside (0, 1].
        """
        check_retention(retention)
        if retention == 1.0:
            return cls(())
        stage = {"site": "cache", "windows": windows, "scope": scope, "ratio": 1.0 - retention}
        return cls([stage])

    @classmethod
    def for_retention(
        cls,
        num_layers: int,
        retention: float,
        windows: Sequence[WindowSpec] = (4, 2, 1),
        ratio: float = 0.5,
        min_layer: int = 1,
        surcharge: Surcharge | None = None,
        allowed: Sequence[int] | None = None,
    ) -> Schedule:
        """Stages, one for each entry of `windows`, whose retention is within 0.5 points of the target.

        Whole layers are searched for the schedule closest to the published proportions (stages
        after 0.375, 0.575 and 0.775 of the depth at retention 0.553: the first as late as the
        budget allows, the rest a fifth of the depth apart). Where whole layers miss the target the
        last ratio is lowered; where even that leaves too little (a high retention in a shallow
        decoder) the last stages are left out. A host that pays more for some layers than for others
        says so with `surcharge`, which is then weighed against the spacing. Stages stand at the places
        `allowed` only (increasing; by default all from `min_layer` on).

        Raises:
            ConfigError: retention outside (0, 1], or out of reach; the reachable range is named.
        """
        check_retention(retention)
        check_solver_arguments(windows, ratio)
        count = len(windows)
        if retention == 1.0:
            return cls(())
        if count == 0:
            raise ConfigError(
                "no stages were given",
                field="windows",
                value=list(windows),
                remedy="give one entry for each stage, such as (4, 2, 1)",
            )
        if allowed is None:
            allowed = range(min_layer, num_layers)
        if len(allowed) < count:
            taken = num_layers - len(allowed)
            raise ConfigError(
                f"{count} stages need {taken + count} layers or more, and there are {num_layers}"
                if allowed and tuple(allowed) == tuple(range(taken, num_layers))
                else f"{count} stages need as many layers to stand behind, and this model has "
                f"{len(allowed)}: after_layer {listed_places(allowed) or 'none'}",
                field="windows",
                value=list(windows),
                remedy=f"use at most {len(allowed)} entries",
            )
        lowest = stack(allowed[:count], [ratio] * count, num_layers)
        if lowest > retention + TOLERANCE:
            raise ConfigError(
                f"{count} stages of ratio {ratio:g} in {num_layers} layers reach retentions "
                f"from {lowest:.3f} to 1",
                field="retention",
                value=retention,
                remedy=more_stages(num_layers, retention, ratio, allowed, count),
            )
        layers, ratios = solve(num_layers, retention, count, ratio, allowed, surcharge)
        return cls(
            {"after_layer": layer, "windows": window, "ratio": share}
            for layer, window, share in zip(layers, windows, ratios, strict=False)
        )

    @classmethod
    def at_depths(
        cls,
        num_layers: int,
        retention: float,
        depths: Sequence[float],
        ratios: Sequence[float],
        windows: Sequence[WindowSpec] = (None,),
        min_layer: int = 1,
        allowed: Sequence[int] | None = None,
        solve: Literal["power", "first"] = "power",
    ) -> Schedule:
        """Stages at fixed shares of the depth, whose kept shares follow from the retention.

        Stage i stands after round(depths[i] · num_layers) layers, or at the nearest place that is
        `allowed` (by default all from `min_layer` on) and later than the stage before; what finds none
        is left out. Ratios that are within half a point of the retention are taken as they are. Else
        `solve` says what changes: `power`, stage i keeps (1 − ratios[i])^t, with one t for all;
        `first`, the first ratio alone, as long as the others do not remove too much by themselves.

        Raises:
            ConfigError: depths that do not increase, or the layers before the first stage alone
                hold more than `retention`.
        """
        check_retention(retention)
        depths, ratios, windows = tuple(depths), tuple(ratios), tuple(windows)
        check_depths(depths, ratios)
        if retention == 1.0:
            return cls(())
        left = list(range(min_layer, num_layers) if allowed is None else allowed)
        layers: list[int] = []
        for depth in depths:
            layer = math.floor(depth * num_layers + 0.5)
            if left and layer < num_layers:
                layers.append(nearest_place(layer, left))
                left = [place for place in left if place > layers[-1]]
        if not layers or retention <= layers[0] / num_layers:
            floor = layers[0] / num_layers if layers else 1.0
            raise ConfigError(
                f"stages at these depths of {num_layers} layers reach retentions above {floor:.3f}",
                field="retention",
                value=retention,
                remedy="use a retention above it, or earlier depths in the recipe",
            )
        solved = SOLVERS[solve](num_layers, retention, layers, ratios[: len(layers)])
        sides = [windows[min(i, len(windows) - 1)] if windows else None for i in range(len(layers))]
        return cls(
            {"after_layer": layer, "windows": side, "ratio": share}
            for layer, side, share in zip(layers, sides, solved, strict=True)
        )

    @classmethod
    def single(
        cls, num_layers: int, retention: float, after_layer: int, windows: WindowSpec = None
    ) -> Schedule:
        """One stage after a fixed layer, its ratio solved: (λ + (L − λ)(1 − ρ)) / L = retention.

        Raises:
            ConfigError: the layers before the stage alone hold more than `retention`.
        """
        check_retention(retention)
        if retention == 1.0:
            return cls(())
        if not is_whole(after_layer) or not 0 <= after_layer < num_layers:
            raise ConfigError(
                f"a stage acts after 0 or more of the decoder's {num_layers} layers",
                field="after_layer",
                value=after_layer,
                remedy=f"use 0 … {num_layers - 1}",
            )
        floor = after_layer / num_layers
        if retention <= floor:
            raise ConfigError(
                f"a stage after {after_layer} of {num_layers} layers reaches retentions above "
                f"{floor:.3f}",
                field="retention",
                value=retention,
                remedy="compress after an earlier layer",
            )
        ratio = 1.0 - (retention * num_layers - after_layer) / (num_layers - after_layer)
        return cls([{"after_layer": after_layer, "windows": windows, "ratio": ratio}])


# -- helpers --------------------------------------------------------------------------------------


def _broadcast(name: str, values: list[Any], count: int) -> list[Any]:
    if len(values) == 1:
        return values * count
    if len(values) != count:
        raise ConfigError(
            f"{len(values)} {name} for {count} stages",
            field=name,
            value=values,
            remedy="give one for all stages or one for each",
        )
    return values
