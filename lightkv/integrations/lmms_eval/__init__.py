"""lightkv inside lmms-eval: `python -m lmms_eval --model lightkv --model_args pretrained=…`.

lmms-eval finds `manifests` through the entry-point group `lmms_eval.models`. Nothing here imports
lmms-eval before it asks; the classes do, and come with the extra `lightkv[lmms-eval]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightkv.integrations.lmms_eval.model import LightKVChat, LightKVModel

__all__ = ["LightKVChat", "LightKVModel", "manifests"]


def manifests() -> list[Any]:
    """What lmms-eval registers: `lightkv`, and `lightkv_chat` for tasks that write messages.

    They are two names because lmms-eval prefers the chat class of a name, and chat classes get no
    tasks that score given answers.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    home = "lightkv.integrations.lmms_eval.model"
    return [
        ModelManifest(model_id="lightkv", simple_class_path=f"{home}.LightKVModel"),
        ModelManifest(model_id="lightkv_chat", chat_class_path=f"{home}.LightKVChat"),
    ]


def __getattr__(name: str) -> Any:
    if name not in ("LightKVModel", "LightKVChat"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lightkv.core.errors import ConfigError

    try:
        from lightkv.integrations.lmms_eval import model
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "lmms_eval":
            raise
        raise ConfigError(
            "lmms-eval is not installed", field=name, remedy="pip install lightkv[lmms-eval]"
        ) from error
    return getattr(model, name)
