"""Values that no method and no model can take: refused before a results file is made.

What a model decides (a retention out of reach, windows that do not fit) skips a cell instead.
"""

from __future__ import annotations

from collections.abc import Mapping

from lightkv.core.contracts import wrong_windows
from lightkv.core.errors import ConfigError, check_known
from lightkv.core.pipeline.changes import overrides_of
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.core.pipeline.solver import check_depths, check_solver_arguments
from lightkv.core.stage.stage import STAGE_ROLES
from lightkv.lab.errors import GridError
from lightkv.lab.grids.cells import seeded
from lightkv.lab.grids.expand import expand
from lightkv.lab.grids.schema import Grid


def check_combinations(grid: Grid) -> None:
    """Build the components of every combination that the grid does not skip, and check its schedule.

    Raises:
        ConfigError: a component, parameter or value that there is not; it names the cell.
    """
    for combination in expand(grid):
        if combination.pipeline is None or combination.skipped is not None:
            continue
        try:
            spec = PipelineSpec.parse(seeded(combination.pipeline, combination.seed))
            for overrides in overrides_of(combination.pipeline.get("schedule")):
                for role in overrides if isinstance(overrides, Mapping) else ():
                    what = "only the roles of a stage can be overridden"
                    check_known(GridError, what, "schedule, overrides", role, STAGE_ROLES)
            if isinstance(spec.schedule, Recipe):
                check_recipe(spec.schedule)
        except ConfigError as error:
            error.field = ": ".join(part for part in (combination.name, error.field) if part)
            raise


def check_recipe(recipe: Recipe) -> None:
    """Refuse numbers that are right for no model.

    Raises:
        ConfigError: with the key.
    """
    for ratio in recipe.tried_ratios:
        check_solver_arguments(list(recipe.windows), ratio)
    for windows in recipe.windows:
        wrong = wrong_windows(windows)
        if wrong is not None:
            raise ConfigError(wrong, field="schedule.windows", value=windows)
    if recipe.after_layer is not None and recipe.after_layer < 0:
        raise ConfigError(
            "a stage acts after 0 or more layers",
            field="schedule.after_layer",
            value=recipe.after_layer,
        )
    if recipe.depths is not None:
        check_depths(recipe.depths, recipe.starting_ratios)
