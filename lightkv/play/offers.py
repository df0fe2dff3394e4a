"""What the playground offers: models, loaded when they are first asked, strategies, and digit scenes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightkv.checkpoints.bundled import FOLDERS, VIDEO, checkpoint_path
from lightkv.checkpoints.load import load_model
from lightkv.core.errors import ConfigError, LightKVError, ModelError, UnknownNameError, check_known
from lightkv.core.pipeline.pipeline import PipelineSpec, resolve_spec
from lightkv.core.plugins import registry
from lightkv.core.run.session import prepare

UNCOMPRESSED = "uncompressed"
"""The strategy that keeps everything."""
SEED, SCENES = 2026, 1000
"""Of the held-out scenes, which `lightkv show --scene` counts alike."""


@dataclass(frozen=True)
class Loaded:
    """A model that is there.

    Attributes:
        refused: strategy → why it cannot work on this model.
    """

    name: str
    model: Any
    processor: Any
    refused: Mapping[str, str]


class Offers:
    """Models and strategies, by the names that the page may send; it never sends a path.

    Args:
        models: bundled names, checkpoint directories or hub ids; every bundled model that this lightkv
            holds if there are none.
        pipelines: YAML files, offered beside the presets.
        dtype, device: to load models in.

    Raises:
        LightKVError: a pipeline file that cannot be used or has the name of another strategy; no bundled
            model.
    """

    def __init__(
        self,
        models: Sequence[str] = (),
        pipelines: Sequence[Path] = (),
        *,
        dtype: str = "auto",
        device: str | None = None,
    ) -> None:
        self._sources = _named(models or _bundled())
        self._dtype, self._device = dtype, device
        self._loaded: dict[str, Loaded] = {}
        self.specs = {name: entry.value for name, entry in registry().presets.items()}
        for path in pipelines:
            self._add(path)

    def _add(self, path: Path) -> None:
        spec = PipelineSpec.from_file(path)
        if spec.name in self.specs or spec.name == UNCOMPRESSED:
            raise ConfigError(
                "another strategy has this name",
                field="--pipeline",
                value=spec.name,
                remedy=f"give {path} a name of its own (its key `name`)",
            )
        self.specs[spec.name] = resolve_spec(spec)

    @property
    def models(self) -> list[str]:
        """Names of the models, in the order in which they were given."""
        return list(self._sources)

    def spec(self, name: str) -> PipelineSpec:
        """A strategy.

        Raises:
            UnknownNameError: none that is offered.
        """
        what = "there is no strategy of that name"
        check_known(UnknownNameError, what, "strategy", name, self.specs)
        return self.specs[name]

    def load(self, name: str) -> Loaded:
        """A model, which is kept once it is loaded. Not for several threads at once.

        Raises:
            ModelError: none that is offered, or not a checkpoint of an image-text model.
            ConfigError: an unknown dtype or device.
        """
        check_known(ModelError, "no model of that name is offered", "model", name, self._sources)
        if name not in self._loaded:
            model, processor = load_model(self._sources[name], self._dtype, self._device)
            refused = dict(_refusals(model, self.specs))
            self._loaded[name] = Loaded(name, model, processor, refused)
        return self._loaded[name]

    def strategies(self, name: str) -> list[dict[str, Any]]:
        """Name, own retention and source of each strategy, and why the model refuses it, or ""."""
        refused = self.load(name).refused
        return [
            {
                "name": each,
                "retention": getattr(spec.schedule, "retention", None),
                "source": spec.source,
                "refused": refused.get(each, ""),
            }
            for each, spec in self.specs.items()
        ]

    def scene(self, name: str, number: int) -> tuple[bytes, list[dict[str, str]]]:
        """A held-out digit scene as PNG, of the kind that the model knows, with questions and answers.

        Raises:
            ModelError: no model that is offered.
            ConfigError: no such scene.
        """
        check_known(ModelError, "no model of that name is offered", "model", name, self._sources)
        if not 0 <= number < SCENES:
            raise ConfigError(
                f"held-out scenes are counted from 0 to {SCENES - 1}", field="scene", value=number
            )
        if self._sources[name] == VIDEO:
            from lightkv.demo.native import numbered_picture as numbered
        else:
            from lightkv.demo.scenes import numbered_scene as numbered
        scene, questions = numbered(number, SEED)
        file = io.BytesIO()
        scene.image.save(file, "PNG")
        return file.getvalue(), [{"text": q.text, "answer": q.answer} for q in questions]


def _bundled() -> list[str]:
    """Bundled models that this lightkv holds."""
    found = [name for name, folder in FOLDERS.items() if (folder / "config.json").is_file()]
    if not found:
        checkpoint_path()  # says how to get one
    return found


def _named(models: Sequence[str]) -> dict[str, str]:
    """Name for the page → what is loaded: the last part of a path, all of it where two are alike."""
    short = [name if name in FOLDERS else Path(name).name or name for name in models]
    return {
        one if short.count(one) == 1 else source: source
        for one, source in zip(short, models, strict=True)
    }


def _refusals(model: Any, specs: Mapping[str, PipelineSpec]) -> Iterator[tuple[str, str]]:
    for name, spec in specs.items():
        try:
            prepare(model, spec)
        except LightKVError as error:
            yield name, str(error)
