"""Model inputs for a batch of questions, each about one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.core.errors import ModelError


def prompt_text(processor: Any, question: str, pictures: int = 1) -> str:
    """One user turn as text: through the chat template if the processor has one, else the
    pictures' placeholders in front of the question."""
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}] * pictures + [{"type": "text", "text": question}]
        text: str = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return text
    return f"{getattr(processor, 'image_token', '<image>')}\n" * pictures + question


def batch_inputs(
    processor: Any, questions: Sequence[str], pictures: Sequence[Any], model: Any
) -> Any:
    """A left-padded batch on the model's device and in its dtype, one picture for each question.

    Raises:
        ModelError: the processor cannot take them.
    """
    texts = [prompt_text(processor, question) for question in questions]
    options: dict[str, Any] = {}
    first = getattr(processor.tokenizer, "bos_token", None)
    if getattr(processor, "chat_template", None) and first and texts[0].startswith(first):
        options["add_special_tokens"] = False  # the template wrote it already
    if len(texts) > 1:
        _prepare_padding(processor.tokenizer)
        options["padding"] = True
    try:
        # One list for each row: processors of several pictures need to know whose each one is.
        inputs = processor(
            text=texts, images=[[picture] for picture in pictures], return_tensors="pt", **options
        )
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ModelError(
            f"the processor cannot take {len(texts)} prompts with a picture each ({error})",
            field="model",
            value=type(processor).__name__,
            remedy="leave image placeholders out of the questions, or use batch_size: 1",
        ) from error
    return moved(inputs, model)


def moved(inputs: Any, model: Any) -> Any:
    """What a processor gave, on the model's device and with pixels in its dtype."""
    inputs = inputs.to(model.device)
    for key, value in inputs.items():
        if hasattr(value, "is_floating_point") and value.is_floating_point():
            inputs[key] = value.to(model.dtype)
    return inputs


def _prepare_padding(tokenizer: Any) -> None:
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
