"""Models without weights: their sizes, and the adapter that serves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lightkv.checkpoints.bundled import FOLDERS, checkpoint_path
from lightkv.checkpoints.library_errors import brief, import_problem
from lightkv.checkpoints.published import DESCRIPTIONS, Description
from lightkv.core.cost.counting import ViewSize
from lightkv.core.errors import ModelError, check_known
from lightkv.core.run.adapter import Adapter, find_adapter


def describe(source: str, adapter: str | None = None) -> Description:
    """Sizes of a model: built in, of a config file, a checkpoint directory or a hub id.

    Of a hub id the config alone is read, from the hub or its cache.

    Args:
        source: such a name, path or id.
        adapter: name of the one that serves the model; found by its class if None.

    Raises:
        ModelError: no such name or file, a config that cannot be read, or a model that no adapter
            serves, such as one of text alone.
    """
    if source in DESCRIPTIONS:
        if adapter is not None:
            raise ModelError(
                "sizes of a model that is known by name need no adapter",
                field="--adapter",
                value=adapter,
                remedy="leave it out, or give a config.json, a checkpoint directory or a hub id",
            )
        return DESCRIPTIONS[source]
    if is_hub_id(source):
        return _described(source, read_config(source), adapter)
    path = checkpoint_path(source) if source in FOLDERS else Path(source).expanduser()
    if not path.exists():
        what = "there is no model, config file or checkpoint directory of that name"
        check_known(ModelError, what, "MODEL", source, [*DESCRIPTIONS, *FOLDERS])
    return _described(source, read_config(path), adapter)


def is_hub_id(source: str) -> bool:
    """Whether a text reads like `owner/name` and is no path here."""
    owner, _, name = source.partition("/")
    path_like = source.startswith((".", "~")) or source.endswith(".json") or "/" in name
    return bool(owner and name) and not path_like and not Path(source).exists()


def _described(source: str, config: Any, adapter: str | None) -> Description:
    found, model = served(config, adapter)
    return Description(
        source,
        found.shape(config),
        _views(config),
        found.places(model),
        config=config,
        parameters=sum(each.numel() for each in model.parameters()),
        served=(found, model),
    )


def read_config(path: str | Path) -> Any:
    """The transformers config in a file or directory, or of a hub id; no code of others runs.

    Raises:
        ModelError: there is none, or transformers cannot read it.
    """
    local = isinstance(path, Path)
    if isinstance(path, Path) and path.is_dir() and not (path / "config.json").is_file():
        raise no_checkpoint(path, ["config.json"])
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, local_files_only=local, trust_remote_code=False)
    except Exception as error:  # a config is a stranger's file and may fail in any way
        remedy = "give the config.json of a model that this transformers version knows"
        if not local:
            remedy = "give a directory, or an id that the hub knows and this machine can reach"
        raise import_problem(error, "model", str(path)) or ModelError(
            f"there is no config that transformers can read ({brief(error)})",
            field="model",
            value=str(path),
            remedy=remedy,
        ) from error


def find_on_meta(config: Any) -> tuple[Adapter, torch.nn.Module]:
    """The adapter of the model's family, and the model without weights that it was found on.

    Raises:
        ModelError: not an image-text model, or none that an adapter serves.
    """
    from transformers import AutoModelForImageTextToText

    try:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    except Exception as error:  # sizes that do not fit, packages that are missing, text models
        raise import_problem(error, "model") or ModelError(
            f"no image-text model can be made of a config of type {config.model_type!r} "
            f"({brief(error, 120)})",
            field="model",
            remedy="give a vision-language model",
        ) from error
    return find_adapter(model), model


def served(config: Any, adapter: str | None = None) -> tuple[Adapter, torch.nn.Module]:
    """The adapter of a config's model, and the model without weights, as a session finds them.

    Args:
        config: of transformers.
        adapter: by name. Then the model may be one of text alone, as one that `generic` compresses.

    Raises:
        ModelError: a model of text alone, one that transformers cannot make, or one that no adapter
            serves.
    """
    from lightkv.adapters.hf.contact import multimodal_types

    try:
        adapted, model = find_on_meta(config)
    except ModelError as error:
        if config.model_type in multimodal_types():  # those that take sound and no pictures
            return _other_class(config, adapter, error)
        if adapter is None and isinstance(error.__cause__, ValueError):
            raise ModelError(
                f"a config of type {config.model_type!r} is one of text alone: it has no vision tokens",
                field="MODEL",
                remedy="give a vision-language model; for a decoder that you compress with "
                "adapter='generic', add --adapter generic",
            ) from error
        if adapter is None:
            raise
        model = text_on_meta(config)
        return find_adapter(model, adapter), model
    return (adapted if adapter is None else find_adapter(model, adapter)), model


def _other_class(
    config: Any, adapter: str | None, first: ModelError
) -> tuple[Adapter, torch.nn.Module]:
    """A multimodal model that the class of image-text models does not make."""
    from lightkv.adapters.hf.contact import model_of

    try:
        model = model_of(config)
    except Exception:  # noqa: BLE001 - a stranger's config may fail in any way
        raise first from None
    return find_adapter(model, adapter), model


def text_on_meta(config: Any) -> torch.nn.Module:
    """The text model of a config, without weights.

    Raises:
        ModelError: transformers makes none of it.
    """
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(  # type: ignore[no-any-return,no-untyped-call]
                config.get_text_config(), trust_remote_code=False
            )
    except Exception as error:  # a stranger's config may fail in any way
        raise ModelError(
            f"transformers makes no model of a config of type {config.model_type!r}",
            field="MODEL",
            remedy="give the config of a model that this transformers version knows",
        ) from error


def _views(config: Any) -> tuple[Any, ...]:
    """The view of one image where the vision tower alone decides it, else nothing."""
    if getattr(config, "model_type", None) != "llava":
        return ()
    vision = config.vision_config
    side, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if not isinstance(side, int) or not isinstance(patch, int) or vision.model_type == "pixtral":
        return ()
    return (ViewSize((1, side // patch, side // patch)),)


def no_checkpoint(path: Path, missing: list[str]) -> ModelError:
    """The error for a directory that lacks something."""
    return ModelError(
        f"the directory is not a checkpoint: it lacks {', '.join(missing)}",
        field="model",
        value=str(path),
        remedy="give a folder written by save_pretrained of both model and processor, "
        f"or one of {', '.join(FOLDERS)} for a bundled model",
    )
