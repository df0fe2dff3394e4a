"""What the YAML files of the digit scenes call; lmms-eval loads this file by its path."""

from typing import Any

from PIL import Image

from lightkv.demo.scenes import Question, score


def doc_to_visual(doc: dict[str, Any]) -> list[Image.Image]:
    return [doc["image"].convert("RGB")]


def doc_to_text(doc: dict[str, Any]) -> str:
    return str(doc["question"])


def doc_to_messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """For models that take messages: the picture, then the question."""
    content = [
        {"type": "image", "url": doc_to_visual(doc)[0]},
        {"type": "text", "text": doc_to_text(doc)},
    ]
    return [{"role": "user", "content": content}]


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The demo's own score: 0 or 1, for lists the share of right items."""
    question = Question(doc["kind"], doc["question"], doc["answer"], target=None)
    return {"scenes_score": score(question, results[0])}
