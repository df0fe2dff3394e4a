"""The processor of a checkpoint, also where torchvision is missing, which video processors need."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightkv.checkpoints.bundled import FOLDERS, VIDEO

PARTS = {"image_processor": "AutoImageProcessor", "tokenizer": "AutoTokenizer"}
"""Parts of a processor that are made without torchvision, and the classes that read them."""


def read_processor(path: str | Path) -> Any:
    """The processor of a checkpoint directory (a `Path`) or of a hub id.

    Without torchvision transformers makes no video processor. That of the bundled model of clips is then
    one of lightkv's own. Any other processor of pictures and clips has None in its place: pictures are
    what `AutoProcessor` would make of them, and `without_clips` says why clips are refused.

    Raises:
        ImportError: transformers needs a package for it that cannot be imported (`import_problem`).
    """
    if path == FOLDERS[VIDEO]:
        from lightkv.checkpoints.clip_processor import load_processor

        return load_processor(FOLDERS[VIDEO])
    from transformers import AutoProcessor

    options = {"local_files_only": isinstance(path, Path), "trust_remote_code": False}
    try:
        return AutoProcessor.from_pretrained(path, **options)  # type: ignore[no-untyped-call]
    except ImportError:
        if find_spec("torchvision") is not None:
            raise  # it is there, so its absence is not why
        made = _for_pictures(path, options)
        if made is None:
            raise
        return made


def without_clips(processor: Any) -> bool:
    """Whether a processor takes no clips only because torchvision is missing."""
    return isinstance(processor, _NoClips)


class _NoClips:
    """A mixin of processors whose video processor may be None."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """As of transformers, but nothing may stand for the part that cannot be made."""
        if argument_name == "video_processor" and argument is None:
            return type(None)
        return super().check_argument_for_proper_class(argument_name, argument)  # type: ignore[misc]


def _for_pictures(path: str | Path, options: dict[str, Any]) -> Any:
    """The processor without its video part; None if it has none, or other parts that are not known."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    config = transformers.AutoConfig.from_pretrained(path, **options)
    kind = PROCESSOR_MAPPING.get(type(config), None)
    parts = [] if kind is None else kind.get_attributes()
    if "video_processor" not in parts or {*parts} - {"video_processor", *PARTS}:
        return None
    read = {
        part: getattr(transformers, PARTS[part]).from_pretrained(path, **options)
        for part in parts
        if part in PARTS
    }
    made = type(kind.__name__, (_NoClips, kind), {})
    written, _ = kind.get_processor_dict(path, **options)
    return made.from_args_and_dict([read.get(part) for part in parts], written)
