"""What a user asks of lightkv in vLLM: `additional_config={"lightkv": {…}}`, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightkv.core.errors import ConfigError, nearest
from lightkv.core.pipeline.pipeline import Changes
from lightkv.core.strict import check_plain

KEY = "lightkv"
"""The key of vLLM's additional config."""
DEFAULT = "lightkv"
"""The preset where none is named."""


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        pipeline: a preset's name, the path of a YAML file, or plain data.
        changes: what to replace in it, as `lightkv.compress` takes it: `retention`, roles,
            `schedule`, ….
    """

    pipeline: Any
    changes: dict[str, Any]


def read_options(additional_config: object) -> Options | None:
    """The options in vLLM's additional config, None where lightkv is not asked for.

    Raises:
        ConfigError: not a mapping, an unknown key, or a value that no configuration can hold.
    """
    if not isinstance(additional_config, Mapping) or KEY not in additional_config:
        return None
    given = additional_config[KEY]
    if isinstance(given, str):
        given = {"pipeline": given}
    if not isinstance(given, Mapping):
        raise ConfigError(
            "the options of lightkv are a mapping, or the name of a preset",
            field=f"additional_config.{KEY}",
            value=given,
            remedy='such as {"pipeline": "lightkv", "retention": 0.55}',
        )
    check_plain(dict(given), f"additional_config.{KEY}")
    known = ["pipeline", *Changes.__annotations__]
    for name in given:
        if name not in known:
            raise ConfigError(
                "lightkv has no such option",
                field=f"additional_config.{KEY}.{name}",
                value=given[name],
                remedy=f"{nearest(str(name), known)}There are: {', '.join(known)}",
            )
    changes = {name: value for name, value in given.items() if name != "pipeline"}
    return Options(given.get("pipeline", DEFAULT), changes)
