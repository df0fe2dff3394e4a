"""Data of the user: a JSONL file of picture, question and answers, or a folder of pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from lightkv.core.errors import ConfigError, file_errors
from lightkv.lab.digests import content_digest
from lightkv.lab.errors import TaskError
from lightkv.lab.outcomes import Outcome, Sample, has_surrogates
from lightkv.lab.tasks.base import Reference, Task, answered
from lightkv.lab.tasks.scoring import MEASURES, Measure

if TYPE_CHECKING:
    from lightkv.lab.subject import Subject

METADATA = "metadata.jsonl"
MEGAPIXELS = 64
SHOWN = 200
"""Characters of a path in an error."""
_FIELD = "task 'files', path"
FORM = '{"image": "cat.jpg", "question": "What is it?", "answers": ["a cat"]}'


class Files(Task):
    """Questions about the user's own pictures.

    Attributes:
        path: a JSONL file with one sample on each line, or a folder that holds pictures and, if
            there is more than one question to ask, a `metadata.jsonl`. A line has `image` (or
            `file_name`, relative to the file), `question`, `answers` (a list, or one text), and may
            have `id` and `kind`.
        question: asked where a line has none, and about every picture of a folder without lines.
        measure: `exact` (equal to any answer), `vqa` (agreement with several people) or `overlap`
            (of words, for captions).
        max_new_tokens: of an answer.
        limit: only the first samples.
        megapixels: larger pictures are refused.
    """

    name: ClassVar[str] = "files"
    batch_size: int = Field(default=8, ge=1)
    path: str
    question: str | None = None
    measure: Measure = "exact"
    max_new_tokens: int = Field(default=32, ge=1)
    limit: int | None = Field(default=None, ge=1)
    megapixels: float = Field(default=MEGAPIXELS, gt=0)

    def samples(self) -> list[Sample]:
        found = self.read()
        for number, sample in enumerate(found, start=1):
            if not sample.answers:
                raise self._error(
                    f"sample {number} ({sample.id}) has no answers",
                    f"give lines like {FORM}, or use the task 'agreement', which needs none",
                )
        return found

    def read(self) -> list[Sample]:
        """The samples, with or without answers.

        Raises:
            TaskError: no such file, a broken line (by number), a missing or unreadable picture.
        """
        path = Path(self.path).expanduser()
        if is_there(path / METADATA):
            path = path / METADATA
        if is_there(path, folder=True):
            found = self._folder(path)
        elif is_there(path):
            found = [self._sample(path, *line) for line in self._lines(path)]
        else:
            raise self._error("there is no such file or folder", "give a JSONL file or a folder")
        if not found:
            raise self._error("there are no samples in it", f"give lines like {FORM}")
        names: set[str] = set()
        for sample in found:
            if sample.id in names:
                raise self._error(f"two samples have the id {sample.id!r}", "ids must differ")
            names.add(sample.id)
        return found

    def fingerprint(self) -> str:
        """Of the lines, and of the names and contents of the pictures.

        Raises:
            TaskError: as `read`.
        """
        digest = hashlib.sha256()
        for sample in self.read():
            file: Path = sample.image.args[0]
            with self._reading(str(file)):
                content = content_digest(file)
            asked = (sample.id, sample.kind, sample.question, sample.answers)
            digest.update(json.dumps((*asked, sample.cluster, content)).encode())
        return digest.hexdigest()[:16]

    def evaluate(
        self, subject: Subject, samples: Sequence[Sample], reference: Reference | None = None
    ) -> Iterator[Outcome]:
        measure = MEASURES[self.measure]

        def judge(sample: Sample, answer: str) -> float:
            return measure(answer, sample.answers)

        for batch in self.batches(samples):
            yield from answered(subject, batch, self.max_new_tokens, judge)

    # -- reading ----------------------------------------------------------------------------------

    def _lines(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and content of each line that is not empty."""
        with self._reading("the file"):
            lines = path.read_bytes().splitlines()
        given = 0
        for number, raw in enumerate(lines, start=1):
            if not raw.strip():
                continue
            try:
                data = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
                halves = has_surrogates(json.dumps(data, ensure_ascii=False))
            except (ValueError, RecursionError) as error:  # of numbers and depth, too
                raise self._line(number, f"not valid JSON ({error})") from error
            if halves:
                raise self._line(number, "half a surrogate pair (\\ud800 to \\udfff) is no text")
            if not isinstance(data, dict):
                raise self._line(number, f"a line is an object, not {type(data).__name__}")
            yield number, data
            given += 1
            if given == self.limit:
                return

    def _sample(self, path: Path, number: int, data: dict[str, Any]) -> Sample:
        image = data.get("image", data.get("file_name"))
        question = data.get("question", self.question)
        answers = data.get("answers", data.get("answer", []))
        answers = [answers] if isinstance(answers, str) else answers
        for key, value in (("image", image), ("question", question)):
            if not isinstance(value, str) or not value.strip():
                raise self._line(number, f"no text under {key!r}")
        if not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
            raise self._line(number, "'answers' is neither a text nor a list of texts")
        assert isinstance(image, str)
        assert isinstance(question, str)
        file = path.parent / image
        check_picture(file, self.megapixels, f"line {number} of {path.name}")
        return Sample(
            id=str(data.get("id", f"{number:07}")),
            cluster=str(image),
            kind=str(data.get("kind", "")),
            question=question,
            answers=tuple(answers),
            image=partial(open_picture, file, self.megapixels),
        )

    def _folder(self, path: Path) -> list[Sample]:
        if self.question is None:
            raise self._error(
                f"the folder has no {METADATA}, so nobody knows what to ask",
                f"give one with lines like {FORM}, or set question: to ask about every picture",
            )
        from lightkv.checkpoints.pictures import SUFFIXES

        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        for file in files[: self.limit]:
            if has_surrogates(file.name):
                raise self._error(f"the name {file.name!r} is not UTF-8", "rename the picture")
            check_picture(file, self.megapixels, f"folder {path.name}")
        return [
            Sample(f.name, f.name, "", self.question, (), partial(open_picture, f, self.megapixels))
            for f in files[: self.limit]
        ]

    def _reading(self, what: str) -> AbstractContextManager[None]:
        return file_errors(TaskError, f"read {what}", _FIELD, self.path, "check it")

    def _error(self, message: str, remedy: str) -> TaskError:
        return TaskError(message, field=_FIELD, value=self.path, remedy=remedy)

    def _line(self, number: int, what: str) -> TaskError:
        return self._error(f"line {number}: {what}", f"a line looks like {FORM}")


def is_there(path: Path, folder: bool = False) -> bool:
    """Whether there is such a file (or folder); also of a text that no path can be."""
    try:
        return path.is_dir() if folder else path.is_file()
    except (OSError, ValueError):  # a picture itself as base64 is too long for a name
        return False


def check_picture(path: Path, megapixels: float, where: str) -> None:
    """Refuse a picture that is missing, unreadable or too large, by its header alone.

    Raises:
        TaskError: what is wrong with it.
    """
    if not is_there(path):
        text = str(path)
        raise TaskError(
            f"{where}: there is no such picture",
            field="image",
            value=text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)",
            remedy="give the path of a picture, relative to the file that names it",
        )
    _opened(path, megapixels, where, lambda picture: None)


def open_picture(path: Path, megapixels: float = MEGAPIXELS) -> Any:
    """The picture in RGB, upright.

    Raises:
        TaskError: missing, unreadable or too large.
    """
    from lightkv.checkpoints.pictures import rgb

    return _opened(path, megapixels, "reading a picture", rgb)


def _opened(path: Path, megapixels: float, where: str, use: Any) -> Any:
    from lightkv.checkpoints.pictures import opened

    try:
        with opened(path, "image", megapixels) as picture:
            return use(picture)
    except ConfigError as error:
        raise TaskError(
            f"{where}: {error.message}", field=error.field, value=error.value, remedy=error.remedy
        ) from error
