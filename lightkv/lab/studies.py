"""Studies as data: grids and searches, read from YAML, each refused by an error of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import ValidationError

from lightkv.core import yamls
from lightkv.core.errors import ConfigError, check_known, file_errors
from lightkv.core.set_values import named, overridden
from lightkv.core.strict import Plain, message_of
from lightkv.lab.outcomes import has_surrogates

DEFAULTS = {"task": "scenes", "base": "lightkv"}
"""Keys whose values have parts, and the names that stand there where a study does not give them."""


class Study(Plain):
    """What can be read from a YAML file, or from plain data that say the same.

    Attributes:
        noun: what errors call it, such as `grid`.
        error: their class.
        page: of docs that shows one and lists its keys.
    """

    noun: ClassVar[str]
    error: ClassVar[type[ConfigError]]
    page: ClassVar[str]

    @classmethod
    def parse(cls, data: Any, folder: Path | None = None) -> Self:
        """From plain data; paths of pipelines and of tasks are relative to `folder`.

        Raises:
            ConfigError: an unknown preset or task; as `error`, an unknown key, a missing one, or a value
                that cannot be meant.
        """
        if isinstance(data, cls):
            return data
        if not isinstance(data, Mapping):
            raise cls.error(
                f"a {cls.noun} is a mapping",
                field=cls.noun,
                value=type(data).__name__,
                remedy=f"its keys are: {', '.join(cls.model_fields)}",
            )
        for key in data:
            what = f"a {cls.noun} has no such key"
            check_known(cls.error, what, cls.noun, key, cls.model_fields)
        try:
            study = cls.model_validate(cls.normal_form(dict(data), folder))
        except ValidationError as error:
            raise cls._refused(error) from error
        if has_surrogates(json.dumps(study.plain(), ensure_ascii=False)):
            raise cls.error(
                "half a surrogate pair (\\ud800 to \\udfff) is no text",
                field=cls.noun,
                remedy="write the character itself",
            )
        study.check()
        return study

    @classmethod
    def read(cls, path: str | Path, changes: Mapping[str, Any] | None = None) -> Self:
        """From a YAML file (safe load: no code, no objects).

        Args:
            path: of the file.
            changes: place → value that it has instead, such as `task.scenes` → 20.

        Raises:
            ConfigError: what `parse` refuses; as `error`, no such file, not YAML, a key twice.
        """
        path = Path(path)
        remedy = f"give a YAML file; {cls.page} shows one"
        bad = (OSError, ValueError, yaml.YAMLError)
        with file_errors(cls.error, f"read the {cls.noun}", cls.noun, path, remedy, bad):
            data = yamls.read(path)
        folder = path.absolute().parent
        if changes and isinstance(data, dict):
            below = {place.partition(".")[0] for place in changes if "." in place}
            data = {**{key: name for key, name in DEFAULTS.items() if key in below}, **data}

            def write_out(key: str, name: str) -> dict[str, Any]:
                return cls.written_out(key, name, folder)

            data = overridden(data, changes, cls.error, f"{cls.noun}, --set", write_out)
        return cls.parse(data, folder)

    @classmethod
    def written_out(cls, key: str, name: str, folder: Path) -> dict[str, Any]:
        """What a name under a key stands for, where a change leads into it."""
        return named(key, name)

    @classmethod
    def normal_form(cls, data: dict[str, Any], folder: Path | None) -> dict[str, Any]:
        """`data` with its short forms written out."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise `error` for what cannot be meant."""
        raise NotImplementedError

    def plain(self) -> dict[str, Any]:
        """All of it as plain data, pipelines written out; `parse` reads it back."""
        return self.model_dump(mode="json")

    @classmethod
    def _refused(cls, error: ValidationError) -> ConfigError:
        """The first of pydantic's errors, as one of the study."""
        first = error.errors(include_url=False)[0]
        where = ", ".join(str(part) for part in first["loc"])
        return cls.error(
            message_of(first),
            field=f"{cls.noun}, {where}",
            value=None if first["type"] == "missing" else first.get("input"),
            remedy=f"{cls.page} lists keys and their values",
        )
