"""The model classes that lmms-eval loads. Importing this module needs lmms-eval."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from lmms_eval.api.instance import (
    GenerationResult,
    Instance,
    TokenCounts,
    unwrap_generation_output,
)
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.utils import Collator
from loguru import logger
from tqdm import tqdm
from transformers import StoppingCriteriaList

from lightkv.checkpoints.forced import forced_answers
from lightkv.checkpoints.prompts import image_token
from lightkv.core.errors import ModelError
from lightkv.core.run.report import RunReport
from lightkv.core.run.session import Session, prepare
from lightkv.integrations.lmms_eval.generation import (
    StopAt,
    cut,
    generation_options,
    stop_strings,
)
from lightkv.integrations.lmms_eval.prompts import Prompter, Turn, chat_turn, user_turn
from lightkv.integrations.lmms_eval.settings import Settings, load, parse


@dataclass
class Totals:
    """Sums over what a run compressed; rows without pictures are left out."""

    rows: int = 0
    retention: float = 0.0
    flops: int = 0
    flops_vanilla: int = 0

    def add(self, report: RunReport) -> None:
        for row in report.samples:
            if row.original:
                self.rows += 1
                self.retention += row.retention
                self.flops += row.flops + row.compression_flops
                self.flops_vanilla += row.flops_vanilla

    def metrics(self) -> dict[str, float]:
        """Achieved retention, which is the share of vision KV, and relative prefill FLOPs."""
        if not self.rows:
            return {}
        return {
            "retention": self.retention / self.rows,
            "flops_ratio": self.flops / self.flops_vanilla,
            "prefill_tflops": self.flops / self.rows / 1e12,
        }


class LightKVModel(lmms):  # type: ignore[misc]
    """Any image-text model of transformers that lightkv serves, compressed or not.

        python -m lmms_eval --model lightkv --tasks pope \\
            --model_args pretrained=llava-hf/llava-1.5-7b-hf,strategy=lightkv,retention=0.55

    Args:
        pretrained: checkpoint directory, hub id, or `demo` for the bundled model.
        strategy: preset or pipeline file; without one the model stays as it is.
        **given: see `lightkv.integrations.lmms_eval.settings`.

    Raises:
        LightKVError: arguments that cannot work, before weights are loaded where that can be known.
    """

    is_simple = True

    def __init__(self, pretrained: str = "", strategy: str | None = None, **given: Any) -> None:
        super().__init__()
        self.settings: Settings = parse({"pretrained": pretrained, "strategy": strategy, **given})
        self.settings = self._spread(self.settings)
        self._model, processor = load(self.settings)
        self.prompter = Prompter(
            processor,
            use_chat_template=self.settings.use_chat_template,
            system_prompt=self.settings.system_prompt,
        )
        self.totals = Totals()
        self.session: Session | None = None
        if self.settings.spec is not None:
            self.session = prepare(
                self._model,
                self.settings.spec,
                retention=self.settings.retention,
                **self.settings.changes,
            ).attach()

    def _spread(self, settings: Settings) -> Settings:
        """Rank and device of this process, under `accelerate launch` one of several."""
        from accelerate import Accelerator, InitProcessGroupKwargs

        # Processes that are done wait for the slowest; the default gives up after minutes.
        patience = InitProcessGroupKwargs(timeout=timedelta(weeks=52))
        self.accelerator = Accelerator(kwargs_handlers=[patience])
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        if self._world_size > 1 and settings.device is None:
            return replace(settings, device=str(self.accelerator.device))
        return settings

    @property
    def model(self) -> Any:
        return self._model

    @property
    def config(self) -> Any:
        return self._model.config

    @property
    def tokenizer(self) -> Any:
        return self.prompter.tokenizer

    @property
    def device(self) -> torch.device:
        return torch.device(self._model.device)

    @property
    def batch_size(self) -> int:
        return self.settings.batch_size

    def clean(self) -> None:
        """Let go of the model, and of the session on it."""
        if self.session is not None:
            self.session.detach()
            self.session = None
        super().clean()

    # -- requests --------------------------------------------------------------------------------

    def _unpack(self, arguments: tuple[Any, ...]) -> tuple[Turn, Any]:
        """The turn of a request, and its generation options or answer."""
        context, second, doc_to_visual, doc_id, task, split = arguments
        doc = self.task_dict[task][split][doc_id]
        visuals = doc_to_visual(doc) if doc_to_visual is not None else None
        context = context[0] if isinstance(context, list) else context
        turn = user_turn(context, visuals, image_token(self.prompter.processor))
        return turn, second(doc) if callable(second) else second

    @staticmethod
    def _options(arguments: tuple[Any, ...]) -> dict[str, Any]:
        """The generation options of a request; only equal ones share a batch."""
        return arguments[1]  # type: ignore[no-any-return]

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers, in the order of the requests."""
        collator = Collator(
            [request.args for request in requests],
            lambda arguments: (-len(str(arguments[0])), str(arguments[0])),
            group_fn=self._options,
            grouping=True,
        )
        results: list[GenerationResult] = []
        start, tokens = time.perf_counter(), 0
        with tqdm(total=len(requests), disable=self.rank != 0, desc="lightkv") as bar:
            for chunk in collator.get_batched(n=self.batch_size):
                turns = [self._unpack(arguments)[0] for arguments in chunk]
                found = self._answers(turns, self._options(chunk[0]))
                tokens += sum(result.token_counts.output_tokens or 0 for result in found)
                results += found
                bar.update(len(chunk))
        self._log(time.perf_counter() - start, tokens)
        return list(collator.get_original(results))

    def _answers(self, turns: Sequence[Turn], given: dict[str, Any]) -> list[GenerationResult]:
        options = generation_options(given, self.settings.max_new_tokens)
        stops = stop_strings(given.get("until"))
        results: dict[int, GenerationResult] = {}
        for rows in _alike(turns):
            inputs = self.prompter.inputs([turns[row] for row in rows], self._model)
            prompt = inputs["input_ids"].shape[1]
            if stops:
                ends = StopAt(self.tokenizer, stops, prompt)
                options["stopping_criteria"] = StoppingCriteriaList([ends])
            with torch.no_grad():
                output = self._model.generate(
                    **inputs, **options, pad_token_id=self.tokenizer.pad_token_id
                )
            self._count()
            new = output[:, prompt:]
            for place, row in enumerate(rows):
                text = self.tokenizer.decode(new[place], skip_special_tokens=True)
                counts = TokenCounts(
                    input_tokens=int(inputs["attention_mask"][place].sum()),
                    output_tokens=int((new[place] != self.tokenizer.pad_token_id).sum()),
                )
                results[row] = GenerationResult(cut(text, stops), counts)
        return [results[row] for row in range(len(turns))]

    def loglikelihood(self, requests: list[Instance]) -> list[Any]:
        """For each request the loss of its answer, and whether the answer is the greedy one.

        The loss is the mean negative log-likelihood of the answer's tokens: lmms-eval takes the
        choice with the smallest number. Pairs are wrapped where lmms-eval would spoil them.

        Raises:
            ModelError: a metric that asks for the likelihood of an answer without its question.
        """
        results: list[tuple[float, bool]] = []
        start = time.perf_counter()
        with tqdm(total=len(requests), disable=self.rank != 0, desc="lightkv") as bar:
            for at in range(0, len(requests), self.batch_size):
                chunk = [request.args for request in requests[at : at + self.batch_size]]
                if any(len(arguments) != 6 for arguments in chunk):
                    raise ModelError(
                        "an answer without a question cannot be scored",
                        field="metric_list",
                        value="acc_mutual_info",
                        remedy="take that metric out of the task",
                    )
                pairs = [self._unpack(arguments) for arguments in chunk]
                results += self._scores([t for t, _ in pairs], [str(a) for _, a in pairs])
                bar.update(len(chunk))
        self._log(time.perf_counter() - start, 0)
        return [_safe(pair) for pair in results]

    def _scores(self, turns: Sequence[Turn], answers: Sequence[str]) -> list[tuple[float, bool]]:
        ids = [self.prompter.continuation_ids(t, a) for t, a in zip(turns, answers, strict=True)]
        pad = self.tokenizer.pad_token_id
        results: dict[int, tuple[float, bool]] = {}
        for rows in _alike(turns):
            inputs = self.prompter.inputs([turns[row] for row in rows], self._model)
            scores = forced_answers(self._model, inputs, [ids[row] for row in rows], pad)
            self._count()
            for row, (found, greedy) in zip(rows, scores, strict=True):
                results[row] = -sum(found) / len(found), greedy
        return [results[row] for row in range(len(turns))]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not served.

        Raises:
            ModelError: always. Rounds are new prompts with new pictures, made by the task.
        """
        raise ModelError(
            "tasks of several rounds are not served",
            field="output_type",
            value="generate_until_multi_round",
            remedy="choose a task of one round",
        )

    # -- counting --------------------------------------------------------------------------------

    def _count(self) -> None:
        if self.session is not None:
            self.totals.add(self.session.last)

    def _log(self, seconds: float, tokens: int) -> None:
        speed = tokens / seconds if seconds else 0.0
        extra = self.totals.metrics()
        log_metrics(seconds, tokens, speed, extra)
        if extra and self.rank == 0:
            logger.info(f"lightkv: achieved retention {extra['retention']:.4f}")


class LightKVChat(LightKVModel):
    """The same for tasks that write their own messages (`doc_to_messages`)."""

    is_simple = False

    def _unpack(self, arguments: tuple[Any, ...]) -> tuple[Turn, Any]:
        _, doc_to_messages, options, doc_id, task, split = arguments
        return chat_turn(doc_to_messages(self.task_dict[task][split][doc_id])), options

    @staticmethod
    def _options(arguments: tuple[Any, ...]) -> dict[str, Any]:
        return arguments[2]  # type: ignore[no-any-return]


def _safe(pair: tuple[float, bool]) -> Any:
    """A pair as lmms-eval leaves it whole: 0.7.3 makes text of all but a result's `text`."""
    return pair if unwrap_generation_output(pair)[0] == pair else GenerationResult(pair)


def _alike(turns: Sequence[Turn]) -> Iterator[list[int]]:
    """Rows with pictures, then rows without: processors take no batch of both."""
    for wanted in (True, False):
        rows = [row for row, turn in enumerate(turns) if bool(turn.images) is wanted]
        if rows:
            yield rows
