"""What `--model_args` may hold, checked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lightkv.core import yamls
from lightkv.core.contracts import ROLES
from lightkv.core.errors import ConfigError, LightKVError, check_known
from lightkv.core.pipeline.pipeline import PipelineSpec, resolve_spec

KEYS = (
    "pretrained",
    "strategy",
    "retention",
    "dtype",
    "device",
    "attn_implementation",
    "batch_size",
    "max_new_tokens",
    "use_chat_template",
    "system_prompt",
)
HARNESS_KEYS = ("max_batch_size",)
"""What lmms-eval adds by itself; of no use here."""
NO_STRATEGY = ("", "none", "null", "vanilla")
FIELDS = {"--model": "pretrained", "model": "pretrained", "--dtype": "dtype", "--device": "device"}
"""How the loader's errors call a field, and how it is called here."""


@dataclass(frozen=True)
class Settings:
    """Checked arguments.

    Attributes:
        pretrained: checkpoint directory, hub id or `demo`.
        spec: what compresses; None leaves the model as it is.
        retention: of the spec, None for its own schedule.
        changes: roles to replace.
        dtype, device: as the command line's.
        attn_implementation: None for the checkpoint's own.
        batch_size: requests in one batch, at most.
        max_new_tokens: for tasks that name no limit.
        use_chat_template: write prompts by the processor's template, if it has one.
        system_prompt: text, or None.
    """

    pretrained: str
    spec: PipelineSpec | None = None
    retention: float | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    device: str | None = None
    attn_implementation: str | None = None
    batch_size: int = 1
    max_new_tokens: int = 1024
    use_chat_template: bool = True
    system_prompt: str | None = None


def parse(given: dict[str, Any]) -> Settings:
    """Settings from the arguments as lmms-eval parses them: text, numbers and truth values.

    Raises:
        ConfigError: an unknown key, or a value that cannot work.
        LightKVError: a strategy or a pipeline file that cannot be used.
    """
    for key in given:
        if key not in HARNESS_KEYS:
            check_known(ConfigError, "no such argument", "model_args", key, KEYS + ROLES)
    pretrained = given.get("pretrained")
    if not isinstance(pretrained, str) or not pretrained:
        raise ConfigError(
            "there is no model to evaluate",
            field="pretrained",
            value=pretrained,
            remedy="give a checkpoint directory, a hub id (owner/name) or demo",
        )
    spec = _spec(given.get("strategy"))
    changes = {role: _component(role, given[role]) for role in ROLES if role in given}
    retention = _retention(given.get("retention"))
    if spec is None and (changes or retention is not None):
        raise ConfigError(
            "without a strategy nothing is compressed",
            field=next(iter(changes), "retention"),
            value=next(iter(changes.values()), retention),
            remedy="give strategy= too, such as strategy=lightkv",
        )
    device = given.get("device")
    attention = given.get("attn_implementation")
    return Settings(
        pretrained=pretrained,
        spec=spec,
        retention=retention,
        changes=changes,
        dtype=str(given.get("dtype") or "auto"),
        device=None if device in (None, "") else str(device),
        attn_implementation=None if attention in (None, "") else str(attention),
        batch_size=_count("batch_size", given.get("batch_size", 1)),
        max_new_tokens=_count("max_new_tokens", given.get("max_new_tokens", 1024)),
        use_chat_template=_truth("use_chat_template", given.get("use_chat_template", True)),
        system_prompt=_prompt(given.get("system_prompt")),
    )


def load(settings: Settings) -> tuple[Any, Any]:
    """The model, in evaluation mode, and its processor.

    Raises:
        LightKVError: a checkpoint, dtype, device or attention that cannot be used.
    """
    from lightkv.checkpoints.load import load_model

    try:
        model, processor = load_model(settings.pretrained, settings.dtype, settings.device)
    except LightKVError as error:
        error.field = FIELDS.get(error.field or "", error.field)
        raise
    wanted = settings.attn_implementation
    if wanted is not None:
        try:
            model.set_attn_implementation(wanted)
        except (ValueError, ImportError) as error:
            raise ConfigError(
                f"the model cannot use it ({str(error).split('. ')[0].rstrip('.')})",
                field="attn_implementation",
                value=wanted,
                remedy="use sdpa or eager",
            ) from error
    return model, processor


def _spec(strategy: object) -> PipelineSpec | None:
    if strategy is None or (isinstance(strategy, str) and strategy.lower() in NO_STRATEGY):
        return None
    if not isinstance(strategy, str):
        raise ConfigError(
            "a preset's name or a path to a pipeline file",
            field="strategy",
            value=strategy,
            remedy="`lightkv strategies` lists the presets",
        )
    return resolve_spec(strategy)


def _component(role: str, value: object) -> Any:
    """A component's name, or its name and parameters: `matcher={name: bipartite, metric: keys}`."""
    if not isinstance(value, str) or not value.startswith("{"):
        return value
    try:
        return yamls.load(value)
    except yaml.YAMLError as error:
        raise ConfigError(
            "not a mapping", field=role, value=value, remedy="write {name: …, parameter: …}"
        ) from error


def _retention(value: object) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(
            "a number above 0, at most 1",
            field="retention",
            value=value,
            remedy="such as retention=0.55",
        )
    return float(value)


def _count(name: str, value: object) -> int:
    try:
        if isinstance(value, bool) or int(value) != float(value) or int(value) < 1:  # type: ignore[call-overload]
            raise ValueError
        return int(value)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError) as error:
        raise ConfigError("must be a whole number, at least 1", field=name, value=value) from error


def _truth(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in (0, 1):
        return bool(value)
    raise ConfigError("must be true or false", field=name, value=value)


def _prompt(value: object) -> str | None:
    """A system prompt; of a file, its text."""
    if value is None or value == "":
        return None
    text = str(value)
    try:
        if Path(text).is_file():
            return Path(text).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the file cannot be read", field="system_prompt", value=text, remedy="give a text file"
        ) from error
    return text
