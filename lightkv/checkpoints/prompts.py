"""Model inputs: a conversation as text, and what a processor makes of texts and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.checkpoints.library_errors import fitting_torchvision
from lightkv.checkpoints.positions import check_length
from lightkv.checkpoints.processors import without_clips
from lightkv.checkpoints.seen import Seen
from lightkv.core.errors import ModelError

REFUSALS = (ValueError, TypeError, KeyError, IndexError)
"""What processors raise at texts and pictures that they cannot take."""


def conversation_text(
    processor: Any, messages: Sequence[dict[str, Any]], use_chat_template: bool = True
) -> str:
    """Messages as text, up to where the answer begins: through the chat template if the processor
    has one, else all contents in order with the placeholders of pictures.

    Args:
        processor: of the model.
        messages: `{"role": …, "content": [{"type": "image"}, {"type": "video"} or
            {"type": "text", "text": …}]}`.
        use_chat_template: use the template if there is one.
    """
    if use_chat_template and getattr(processor, "chat_template", None):
        return str(
            processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        )
    tokens = {
        "image": image_token(processor) or "<image>",
        "video": getattr(processor, "video_token", None) or "<video>",
    }
    parts = [part for message in messages for part in message["content"]]
    return "".join(p["text"] if p["type"] == "text" else f"{tokens[p['type']]}\n" for p in parts)


def image_token(processor: Any) -> str | None:
    """The placeholder of a picture in texts, if the processor has one."""
    token = getattr(processor, "image_token", None)
    return token if isinstance(token, str) else None


def prompt_text(processor: Any, question: str, pictures: int = 1, clips: int = 0) -> str:
    """One user turn as text, the pictures and then the clips in front of the question."""
    seen = [{"type": "image"}] * pictures + [{"type": "video"}] * clips
    content = [*seen, {"type": "text", "text": question}]
    return conversation_text(processor, [{"role": "user", "content": content}])


def build_inputs(
    processor: Any, prompt: str, pictures: Sequence[Any], model: Any, clips: Sequence[Any] = ()
) -> Any:
    """Model inputs for one user turn about any number of pictures and clips (`[F, H, W, 3]` each).

    Raises:
        ModelError: the processor cannot take them, or the model has no positions for so many tokens.
    """
    _check_clips(processor, clips)
    text = prompt_text(processor, prompt, len(pictures), len(clips))
    given = {"videos": list(clips)} if clips else {}
    try:
        inputs = processed(processor, [text], model, images=list(pictures) or None, **given)
    except REFUSALS as error:
        seen = f"{len(pictures)} pictures" + (f" and {len(clips)} clips" if clips else "")
        raise ModelError(
            f"the processor cannot take {seen} with this prompt ({error})",
            field="--prompt",
            remedy="leave image placeholders out of the prompt; the command puts them in",
        ) from error
    check_length(inputs, model)
    return inputs


def batch_inputs(processor: Any, questions: Sequence[str], seen: Sequence[Seen], model: Any) -> Any:
    """A left-padded batch of user turns, each about what is seen before its question.

    Raises:
        ModelError: the processor cannot take them, or the model has no positions for so many tokens.
    """
    clips = [clip for one in seen for clip in one.clips]
    _check_clips(processor, clips)
    texts = [
        prompt_text(processor, question, len(one.pictures), len(one.clips))
        for question, one in zip(questions, seen, strict=True)
    ]
    options: dict[str, Any] = {"videos": clips} if clips else {}
    if any(one.pictures for one in seen):
        # One list for each row: processors of several pictures need to know whose each one is.
        options["images"] = [list(one.pictures) for one in seen]
    if len(texts) > 1:
        pad_left(processor.tokenizer)
        options["padding"] = True
    try:
        inputs = processed(processor, texts, model, **options)
    except REFUSALS as error:
        raise ModelError(
            f"the processor cannot take {len(texts)} prompts about pictures or clips ({error})",
            field="model",
            value=type(processor).__name__,
            remedy="leave image placeholders out of the questions, or use batch_size: 1",
        ) from error
    check_length(inputs, model)
    return inputs


def _check_clips(processor: Any, clips: Sequence[Any]) -> None:
    if clips and without_clips(processor):
        raise ModelError(
            "transformers makes the model's video processor with torchvision alone, and there is none",
            field="--video",
            value=type(processor).__name__,
            remedy=f"{fitting_torchvision()}, or give frames as pictures",
        )
    if clips and getattr(processor, "video_processor", None) is None:
        raise ModelError(
            "the model's processor takes no clips",
            field="--video",
            value=type(processor).__name__,
            remedy="use a model that takes videos, such as Qwen2.5-VL, or give frames as pictures",
        )


def processed(processor: Any, texts: Sequence[str], model: Any, **options: Any) -> Any:
    """What a processor makes of texts, on the model's device and with pixels in its dtype.

    Args:
        processor: of the model.
        texts: as of `conversation_text`.
        model: that the inputs are for.
        **options: of the processor, such as `images` and `padding`.
    """
    first = getattr(getattr(processor, "tokenizer", processor), "bos_token", None)
    if first and all(text.startswith(first) for text in texts):
        options["add_special_tokens"] = False  # the template wrote it already
    inputs = processor(text=list(texts), return_tensors="pt", **options).to(model.device)
    for key, value in inputs.items():
        if hasattr(value, "is_floating_point") and value.is_floating_point():
            inputs[key] = value.to(model.dtype)
    return inputs


def pad_left(tokenizer: Any) -> None:
    """Generation goes on at the right end, so padding is at the left."""
    tokenizer.padding_side = "left"
    if getattr(tokenizer, "pad_token", None) is None:
        tokenizer.pad_token = tokenizer.eos_token


def answer_ids(processor: Any, question: str, answer: str) -> list[int]:
    """The tokens that the answer adds behind the prompt."""
    tokenizer, prompt = processor.tokenizer, prompt_text(processor, question)
    joint = prompt + ("" if prompt[-1:].isspace() else " ") + answer
    before, whole = (
        list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (prompt, joint)
    )
    same = 0
    while same < min(len(before), len(whole)) and before[same] == whole[same]:
        same += 1
    return whole[same:]
