"""A model under study: loaded once, asked many times, compressed in different ways."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightkv.checkpoints.answers import greedy
from lightkv.checkpoints.equalise import ROUNDS, equalised
from lightkv.checkpoints.prompts import answer_ids, batch_inputs
from lightkv.core.errors import SessionError
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe, resolve_spec
from lightkv.core.run.session import Session, prepare
from lightkv.lab.encodings import Encodings

if TYPE_CHECKING:
    from lightkv.core.run.report import SampleReport
    from lightkv.lab.outcomes import Sample

Source = PipelineSpec | str | Path | dict[str, Any] | None


@dataclass(frozen=True)
class Usage:
    """What the prefills of a session cost, means over the samples with pictures.

    Attributes:
        retention: achieved.
        flops, kv_bytes: of prefill and of its cache, relative to the uncompressed model.
        tokens: vision tokens in each layer's cache.
    """

    retention: float
    flops: float
    kv_bytes: float
    tokens: tuple[float, ...]


class Subject:
    """A model with its processor.

    Attributes:
        model, processor: as loaded.
        name: what it was loaded from.
        session: the session it runs in; None outside `compressed`.
        encodings: what its encoder made of the pixels that it was asked about in `answering`.
    """

    def __init__(self, model: Any, processor: Any, name: str = "") -> None:
        self.model = model
        self.processor = processor
        self.name = name
        self.session: Session | None = None
        self.encodings = Encodings()

    @classmethod
    def load(
        cls, model: str = "demo", *, dtype: str = "auto", device: str | None = None
    ) -> Subject:
        """Load `demo` or `demo-video` (the bundled models), a checkpoint directory or a hub id.

        Raises:
            ModelError: not a checkpoint of an image-text model.
            ConfigError: an unknown dtype or device.
        """
        from lightkv.checkpoints.load import load_model

        return cls(*load_model(model, dtype, device), name=model)

    # -- compression ------------------------------------------------------------------------------

    def prepare(
        self,
        pipeline: Source,
        retention: float | None = None,
        *,
        probe: Sequence[Sample] = (),
        equalise: bool = True,
    ) -> Session:
        """A session that is not attached yet.

        Args:
            pipeline: a preset's name, a spec, a YAML path, plain data, or None for the uncompressed
                model (a session without stages, which computes bit for bit the same).
            retention: wanted mean share of vision KV over all layers; None leaves the pipeline's.
            probe: samples to measure on what is achieved, one prefill each.
            equalise: solve a recipe again until the *achieved* retention on `probe` comes as near to
                `retention` as its rounding to whole tokens allows.

        Raises:
            LightKVError: the pipeline cannot work on this model; a retention for explicit stages.
        """
        if pipeline is None:
            return self._session(PipelineSpec(name="vanilla", matcher="keep-all", schedule=()))
        spec = resolve_spec(pipeline)
        if not isinstance(spec.schedule, Recipe):
            return self._session(spec, retention=retention)
        wanted = spec.schedule.retention if retention is None else retention
        best = equalised(
            wanted,
            lambda target: self._session(spec, retention=target),
            lambda session: self.try_on(session, probe).retention if probe else wanted,
            rounds=ROUNDS if equalise else 1,
        )
        # Without the reports of the probes, and counting its prefills from 0.
        return self._session(best.pipeline.spec)

    def _session(self, spec: PipelineSpec, **options: Any) -> Session:
        """A session whose reports are all kept, for means over data sets; tables show the gaps."""
        return prepare(self.model, spec, keep_reports="all", gap_warning=False, **options)

    @contextmanager
    def compressed(
        self, pipeline: Source, retention: float | None = None, **options: Any
    ) -> Iterator[Session]:
        """The subject inside a session; `options` as for `prepare`.

        Raises:
            SessionError: it is in one already.
            LightKVError: the pipeline cannot work on this model.
        """
        with self.within(self.prepare(pipeline, retention, **options)) as session:
            yield session

    @contextmanager
    def within(self, session: Session) -> Iterator[Session]:
        """The subject inside a prepared session."""
        if self.session is not None:
            raise SessionError(
                "the subject is in a session already",
                field="session",
                value=self.session.pipeline.spec.name,
                remedy="leave it first",
            )
        self.session = session.attach()
        try:
            yield session
        finally:
            session.detach()
            self.session = None

    @contextmanager
    def answering(self, session: Session) -> Iterator[Session]:
        """As `within`, for answers and counts and not for times: what the vision encoder made of pixels
        before is not made again. Answers are those of `within`, bit for bit."""
        with self.within(session), self.encodings.within(session):
            yield session

    def try_on(self, session: Session, samples: Sequence[Sample]) -> Usage:
        """One prefill of each sample in a prepared session, and what they cost."""
        with self.answering(session):
            for sample in samples:
                self.first_token(self.inputs([sample]))
        return usage(session)

    @property
    def last_retentions(self) -> list[float]:
        """Achieved retention of each row of the last batch."""
        if self.session is None or not self.session.reports:
            return []
        return [sample.retention for sample in self.session.last.samples]

    # -- asking -----------------------------------------------------------------------------------

    def generate(self, samples: Sequence[Sample], max_new_tokens: int = 32) -> list[str]:
        """Greedy answers to one left-padded batch."""
        return greedy(self.model, self.processor, self.inputs(samples), max_new_tokens)

    def log_likelihood(
        self, samples: Sequence[Sample], answers: Sequence[str]
    ) -> list[tuple[float, int]]:
        """For each sample the log-probability of its answer given picture and question, and over
        how many tokens.

        The prompt is prefilled as in `generate`, and the answer is forced token by token through
        the model's own decoding, so it reads the compressed cache. The end token does not count.
        """
        from lightkv.checkpoints.forced import forced_answers

        wanted = [
            answer_ids(self.processor, s.question, a) for s, a in zip(samples, answers, strict=True)
        ]
        if not any(wanted):
            return [(0.0, 0)] * len(wanted)
        inputs = self.inputs(samples)
        # Rows of one length need no padding, and their tokenizer may have none.
        pad = self.processor.tokenizer.pad_token_id or 0
        found = forced_answers(self.model, inputs, wanted, pad)
        return [(sum(likely, 0.0), len(likely)) for likely, _ in found]

    def inputs(self, samples: Sequence[Sample]) -> Any:
        """What the model is asked: one left-padded batch, on its device."""
        questions = [sample.question for sample in samples]
        seen = [sample.seen() for sample in samples]
        return batch_inputs(self.processor, questions, seen, self.model)

    def first_token(self, inputs: Any) -> None:
        """Prefill a batch, to its first new token."""
        import torch

        with torch.no_grad():
            self.model.generate(**inputs, max_new_tokens=1, do_sample=False)


def usage(session: Session) -> Usage:
    """Means over all samples with pictures that a session has seen.

    Raises:
        SessionError: it has seen none.
    """
    rows = [row for report in session.reports for row in report.samples if row.original]
    if not rows:
        raise SessionError("the session has seen no pictures", field="session")
    number = len(rows)
    shape = session.adapter.shape(getattr(session.model, "config", None))
    values = next(p for p in session.model.parameters() if p.is_floating_point())
    shape = replace(shape, bytes_per_value=values.dtype.itemsize)
    return Usage(
        retention=math.fsum(row.retention for row in rows) / number,
        flops=math.fsum(row.flops + row.compression_flops for row in rows)
        / math.fsum(row.flops_vanilla for row in rows),
        kv_bytes=math.fsum(sum(row.kv_bytes) for row in rows)
        / math.fsum(_whole_cache(shape, row) for row in rows),
        tokens=tuple(
            math.fsum(layer) / number
            for layer in zip(*(row.vision_tokens for row in rows), strict=True)
        ),
    )


def _whole_cache(shape: Any, row: SampleReport) -> int:
    """Bytes of the cache that the uncompressed model would have made of this prompt."""
    whole = row.text_tokens + row.original
    entries = (
        shape.held(layer, whole) * shape.token_bytes(layer) for layer in range(shape.num_layers)
    )
    return int(sum(entries))
