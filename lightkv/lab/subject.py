"""A model under study: loaded once, asked many times, compressed in different ways."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightkv.checkpoints.prompts import answer_ids, batch_inputs
from lightkv.core.errors import ConfigError, SessionError
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe, resolve_spec
from lightkv.core.run.session import Session, prepare

if TYPE_CHECKING:
    from lightkv.core.run.report import RunReport, SampleReport
    from lightkv.lab.outcomes import Sample

NEAR_ENOUGH = 0.0025
"""A quarter of a point: how near the achieved retention should come to the wanted one."""
ROUNDS = 8
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
    """

    def __init__(self, model: Any, processor: Any, name: str = "") -> None:
        self.model = model
        self.processor = processor
        self.name = name
        self.session: Session | None = None

    @classmethod
    def load(
        cls, model: str = "demo", *, dtype: str = "auto", device: str | None = None
    ) -> Subject:
        """Load `demo` (the bundled model), a checkpoint directory or a hub id.

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
        target, best, best_gap = wanted, None, math.inf
        for _ in range(ROUNDS if equalise and probe else 1):
            try:
                session = self._session(spec, retention=target)
                achieved = self.try_on(session, probe).retention if probe else wanted
            except ConfigError:
                if best is None:
                    raise
                break
            gap = wanted - achieved
            if abs(gap) < abs(best_gap):
                best, best_gap = session, gap
            target += gap
            if abs(best_gap) <= NEAR_ENOUGH or not 0.0 < target <= 1.0:
                break
        assert best is not None
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

    def try_on(self, session: Session, samples: Sequence[Sample]) -> Usage:
        """One prefill of each sample in a prepared session, and what they cost."""
        with self.within(session):
            for sample in samples:
                self._prefill([sample])
        return usage(session)

    @property
    def reports(self) -> list[RunReport]:
        """One for each prefill of the session, oldest first; empty outside a session."""
        return [] if self.session is None else self.session.reports

    @property
    def last_retentions(self) -> list[float]:
        """Achieved retention of each row of the last batch."""
        if self.session is None or not self.session.reports:
            return []
        return [sample.retention for sample in self.session.last.samples]

    # -- asking -----------------------------------------------------------------------------------

    def generate(self, samples: Sequence[Sample], max_new_tokens: int = 32) -> list[str]:
        """Greedy answers to one left-padded batch."""
        import torch

        inputs = self._inputs(samples)
        with torch.no_grad():
            tokens = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def log_likelihood(
        self, samples: Sequence[Sample], answers: Sequence[str]
    ) -> list[tuple[float, int]]:
        """For each sample the log-probability of its answer given picture and question, and over
        how many tokens.

        The prompt is prefilled as in `generate`, and the answer is forced token by token through
        the model's own decoding, so it reads the compressed cache. The end token does not count.
        """
        import torch
        from transformers import LogitsProcessorList

        inputs = self._inputs(samples)
        wanted = [
            answer_ids(self.processor, s.question, a) for s, a in zip(samples, answers, strict=True)
        ]
        steps = max(map(len, wanted), default=0)
        if steps == 0:
            return [(0.0, 0)] * len(wanted)
        filler = self._filler()
        rows = [ids + [filler] * (steps - len(ids)) for ids in wanted]
        forced = torch.tensor(rows, device=self.model.device)
        with torch.no_grad():
            out = self.model.generate(
                **inputs,
                max_new_tokens=steps,
                do_sample=False,
                logits_processor=LogitsProcessorList([_forcing(forced)]),
                return_dict_in_generate=True,
                output_logits=True,
            )
        found = torch.stack([step.float().log_softmax(dim=-1) for step in out.logits], dim=1)
        chosen = found.gather(2, forced.unsqueeze(-1)).squeeze(-1).double().cpu()
        return [
            (float(row[: len(ids)].sum()), len(ids))
            for row, ids in zip(chosen, wanted, strict=True)
        ]

    def _filler(self) -> int:
        """A token that ends nothing, behind the answers of shorter rows."""
        ends = self.model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        return next(token for token in range(len(ends) + 1) if token not in ends)

    def _inputs(self, samples: Sequence[Sample]) -> Any:
        questions = [sample.question for sample in samples]
        pictures = [sample.picture() for sample in samples]
        return batch_inputs(self.processor, questions, pictures, self.model)

    def _prefill(self, samples: Sequence[Sample]) -> None:
        import torch

        with torch.no_grad():
            self.model.generate(**self._inputs(samples), max_new_tokens=1, do_sample=False)


def _forcing(forced: Any) -> Any:
    """A logits processor that makes the greedy choice of step t the token `forced[:, t]`."""
    import torch
    from transformers import LogitsProcessor

    class Forcing(LogitsProcessor):
        step = 0

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            only = torch.full_like(scores, -torch.inf)
            only.scatter_(1, forced[:, self.step : self.step + 1], 0.0)
            self.step += 1
            return only

    return Forcing()


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
    held = sum(shape.held(layer, whole) for layer in range(shape.num_layers))
    return int(held * shape.kv_bytes_per_token)
