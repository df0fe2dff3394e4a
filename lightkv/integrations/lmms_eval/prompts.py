"""From a request of lmms-eval to model inputs. Knows nothing of lmms-eval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from lightkv.checkpoints.pictures import rgb
from lightkv.checkpoints.prompts import (
    REFUSALS,
    conversation_text,
    pad_left,
    processed,
)
from lightkv.core.errors import ConfigError, ModelError


@dataclass(frozen=True)
class Turn:
    """One request: messages as chat templates take them, and their pictures in order.

    Attributes:
        messages: `{"role": …, "content": [{"type": "image"} or {"type": "text", "text": …}]}`.
        images: one for each image part, RGB.
    """

    messages: list[dict[str, Any]]
    images: tuple[Image.Image, ...] = ()


def picture(visual: object) -> Image.Image:
    """A visual of lmms-eval in RGB, upright: a picture, or the path of one.

    Raises:
        ModelError: a video, audio, or a file that is no picture.
        ConfigError: a picture whose pixels have no white.
    """
    if isinstance(visual, Image.Image):
        return rgb(visual)
    if isinstance(visual, str):
        try:
            with Image.open(visual) as opened:
                return rgb(opened)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ModelError(
                "not a picture that Pillow can read",
                field="visual",
                value=visual,
                remedy="choose a task with pictures; videos and audio are not read here",
            ) from error
    raise ModelError(
        "only pictures are read here",
        field="visual",
        value=type(visual).__name__,
        remedy="choose a task with pictures",
    )


def user_turn(context: str, visuals: Sequence[object] | None, image_token: str | None) -> Turn:
    """A user's turn. Pictures go before the text, or where the text has their placeholders.

    Raises:
        ModelError: placeholders and pictures that differ in number.
    """
    images = tuple(picture(visual) for visual in visuals or ())
    pieces = context.split(image_token) if image_token else [context]
    if len(pieces) == 1:
        content: list[dict[str, Any]] = [{"type": "image"} for _ in images]
        content.append({"type": "text", "text": context})
        return Turn([{"role": "user", "content": content}], images)
    if len(pieces) - 1 != len(images):
        raise ModelError(
            f"the prompt has {len(pieces) - 1} placeholders {image_token} for {len(images)} pictures",
            field="context",
            remedy="each picture needs one placeholder, or none of them has any",
        )
    content = []
    for number, piece in enumerate(pieces):
        if number:
            content.append({"type": "image"})
        if piece.strip():
            content.append({"type": "text", "text": piece.strip()})
    return Turn([{"role": "user", "content": content}], images)


def chat_turn(messages: Sequence[dict[str, Any]]) -> Turn:
    """A turn from messages as lmms-eval's tasks write them.

    Raises:
        ModelError: a part that is neither text nor a picture.
    """
    images: list[Image.Image] = []
    plain = []
    for message in messages:
        content: list[dict[str, Any]] = []
        parts = message["content"]
        for part in [{"type": "text", "text": parts}] if isinstance(parts, str) else parts:
            if part["type"] == "text":
                content.append({"type": "text", "text": part["text"]})
            elif part["type"] == "image":
                images.append(picture(part["url"]))
                content.append({"type": "image"})
            else:
                picture(part.get("url", part["type"]))  # raises
        plain.append({"role": message["role"], "content": content})
    return Turn(plain, tuple(images))


class Prompter:
    """Texts and model inputs of turns, by a model's own processor.

    Args:
        processor: of the model; its tokenizer pads on the left from now on.
        use_chat_template: write turns by the processor's chat template, if it has one.
        system_prompt: put before every turn that has no system message.
    """

    def __init__(
        self, processor: Any, *, use_chat_template: bool = True, system_prompt: str | None = None
    ) -> None:
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        pad_left(self.tokenizer)
        self.use_chat_template = use_chat_template
        self.system_prompt = system_prompt

    def text(self, turn: Turn) -> str:
        """The prompt of a turn, up to where the answer begins."""
        messages = turn.messages
        if self.system_prompt and messages[0]["role"] != "system":
            system = [{"type": "text", "text": self.system_prompt}]
            messages = [{"role": "system", "content": system}, *messages]
        return conversation_text(self.processor, messages, self.use_chat_template)

    def inputs(self, turns: Sequence[Turn], model: Any) -> Any:
        """One left-padded batch on the model's device. All turns hold pictures, or none does.

        Raises:
            ModelError: the processor cannot take them.
        """
        texts = [self.text(turn) for turn in turns]
        options: dict[str, Any] = {}
        if turns[0].images:
            options["images"] = [list(turn.images) for turn in turns]
        try:
            return processed(self.processor, texts, model, padding=True, **options)
        except REFUSALS as error:
            counts = [len(turn.images) for turn in turns]
            raise ModelError(
                f"the processor cannot take prompts with {counts} pictures ({error})",
                field="context",
                remedy="try --batch_size 1, or use_chat_template=false",
            ) from error

    def continuation_ids(self, turn: Turn, continuation: str) -> list[int]:
        """Tokens of an answer as they follow the prompt of `turn`.

        Raises:
            ConfigError: an answer without tokens.
        """
        prompt = self.text(turn)

        def ids(text: str) -> list[int]:
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

        before, whole = ids(prompt), ids(prompt + continuation)
        # Some tokenizers melt the answer's first letters into the prompt's last token.
        kept = whole[: len(before)] == before
        found = whole[len(before) :] if kept else ids(continuation)
        if not found:
            raise ConfigError(
                "an answer to score has no tokens", field="target", value=continuation
            )
        return found
