"""The session: a pipeline attached to a model for as long as it is needed."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ForwardRef, Unpack

import torch
from torch import nn

from lightkv.core.errors import ConfigError, SessionError, nearest
from lightkv.core.layout import VisionLayout
from lightkv.core.pipeline.pipeline import Changes, Pipeline, PipelineSource
from lightkv.core.run.adapter import Adapter, Attachment, find_adapter, unwrap
from lightkv.core.run.engine import Engine
from lightkv.core.run.report import RunReport
from lightkv.core.run.reports import Keep, Reports

# Sessions by the module that they hook. Keys and values are weak: an attached model that nobody
# holds any more is let go, with its session.
_ACTIVE: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Session]] = weakref.WeakKeyDictionary()


class Session:
    """A compressed model. Made by `compress` or `attach`.

    Attributes:
        model: the model, unchanged but for hooks.
        pipeline: what runs, with explicit stages; `pipeline.to_yaml()` reproduces it.
        adapter: the adapter that serves the model.
    """

    def __init__(
        self,
        model: nn.Module,
        pipeline: Pipeline,
        adapter: Adapter,
        engine: Engine,
        layout: VisionLayout | None,
    ) -> None:
        self.model = model
        self.pipeline = pipeline
        self.adapter = adapter
        self._engine = engine
        self._layout = layout
        self._attachment: Attachment | None = None

    @property
    def active(self) -> bool:
        """Whether the model is compressed right now."""
        return self._attachment is not None

    @property
    def reports(self) -> list[RunReport]:
        """One report for each of the latest prefills, oldest first.

        By default 100 are kept, or 10 with `trace`, whose reports hold tensors: a server's memory stays
        flat. `keep_reports` of `compress` and `attach` is another bound, or `"all"`. `runs` counts
        those that were let go too, and `RunReport.run` numbers them.
        """
        return list(self._engine.reports)

    @property
    def runs(self) -> int:
        """Prefills that were reported since the session was made."""
        return self._engine.reports.total

    @property
    def last(self) -> RunReport:
        """The report of the last prefill.

        Raises:
            SessionError: nothing has run yet.
        """
        if not self._engine.reports:
            raise SessionError(
                "nothing has run in this session yet", remedy="call model.generate(**inputs) first"
            )
        return self._engine.reports[-1]

    def attach(self) -> Session:
        """Start compressing.

        Raises:
            SessionError: the model is already in a session.
        """
        key = self.adapter.key_module(self.model)
        held = _ACTIVE.get(key)
        other = None if held is None else held()
        if other is not None:
            raise SessionError(
                f"{type(self.model).__name__} is already compressed by "
                f"{other.pipeline.spec.name!r}",
                field="model",
                value=other.pipeline.spec.name,
                remedy="leave that session first (or session.detach()); to combine methods build "
                "one pipeline with several stages",
            )
        self._attachment = self.adapter.attach(self.model, self._engine, self._layout)
        _ACTIVE[key] = weakref.ref(self)
        # The model's hooks hold the engine, and so the session, for as long as the model lives.
        self._engine.owner = self
        return self

    def detach(self) -> None:
        """Stop compressing and restore the model. Safe to call twice."""
        if self._attachment is not None:
            self._attachment.detach()
            self._attachment = None
            self._engine.owner = None
            _ACTIVE.pop(self.adapter.key_module(self.model), None)

    def __repr__(self) -> str:
        state = "attached" if self.active else "detached"
        runs, kept = self.runs, len(self._engine.reports)
        held = "" if runs == kept else f", reports of the last {kept} kept"
        return (
            f"Session({self.pipeline.spec.name!r}, {self.pipeline.schedule!r}, {state}, "
            f"{runs} runs{held})"
        )


class Options(Changes, total=False):
    """The keywords of `compress`, which says what they mean, `attach` and `prepare`."""

    adapter: Adapter | str | None
    layout: VisionLayout | None
    profile: bool
    trace: bool
    check_finite: bool
    keep_reports: Keep
    gap_warning: bool


OPTIONS: dict[str, Any] = Options.__annotations__


def prepare(
    model: nn.Module,
    pipeline: PipelineSource,
    *,
    adapter: Adapter | str | None = None,
    layout: VisionLayout | None = None,
    profile: bool = False,
    trace: bool = False,
    check_finite: bool = False,
    keep_reports: Keep = None,
    gap_warning: bool = True,
    **changes: Unpack[Changes],
) -> Session:
    """A session that is not attached yet; see `compress` for the arguments."""
    if not isinstance(model, nn.Module):
        raise ConfigError(
            "a model is a torch module",
            field="model",
            value=type(model).__name__,
            remedy="load it with AutoModelForImageTextToText.from_pretrained(…) first",
        )
    if layout is not None and not isinstance(layout, VisionLayout):
        raise ConfigError(
            "a layout says where the vision tokens are",
            field="layout",
            value=type(layout).__name__,
            remedy="VisionLayout.from_spans([[(start, (frames, rows, columns))]])",
        )
    for name, value in changes.items():
        if name not in OPTIONS:
            raise ConfigError(
                "neither a pipeline nor a session has such a part",
                field=name,
                value=value,
                remedy=f"{nearest(name, OPTIONS)}There are: {', '.join(OPTIONS)}",
            )
    model = unwrap(model)
    chosen = find_adapter(model, adapter)
    num_layers = chosen.num_layers(model)
    built = Pipeline.build(pipeline, num_layers, places=chosen.places(model), **changes)
    check_modalities(built, chosen, layout)
    shape = chosen.shape(getattr(model, "config", None))
    heads = chosen.heads(model)
    shape = replace(
        shape, bytes_per_value=_dtype(chosen.key_module(model)).itemsize, processes=heads.size
    )
    engine = Engine(
        built,
        shape,
        profile=profile,
        trace=trace,
        check_finite=check_finite,
        heads=heads,
        reports=Reports(keep_reports, trace=trace, gap_warning=gap_warning),
    )
    return Session(model, built, chosen, engine, layout)


@contextmanager
def compress(
    model: nn.Module, pipeline: PipelineSource, **options: Unpack[Options]
) -> Iterator[Session]:
    """Compress the vision tokens of every prefill that runs inside the block.

        with lightkv.compress(model, "lightkv", retention=0.55) as run:
            model.generate(**inputs)
        print(run.last)

    Args:
        model: a supported model.
        pipeline: a preset's name, a spec, a path to a YAML file or plain data, which may change another
            pipeline: `{"base": "lightkv", "matcher": {"metric": "keys"}}`. The next ten replace parts
            of it, which otherwise stay as they are (`...`); a component is given as itself, as its name
            or as `{"name": …, parameter: value}`.
        retention: mean over all layers of the share of vision tokens in the KV cache, in (0, 1]; or
            modality → that of its tokens, `{"image": 0.5, "audio": 0.7}`. Modalities that are not named
            are left as they are.
        partitioner: who may interact with whom.
        scorer: how important each token is; None for pipelines that need no importances.
        matcher: who flows into whom, and who goes.
        aggregator: what a survivor becomes.
        positions: what rotary position it carries.
        proportional: add log(size) of merged tokens to the attention logits of their keys.
        schedule: the stages, or the recipe that is solved for them. A mapping changes keys of the recipe
            that is there, such as `{"ratio": 0.4}`; None as a value takes one away.
        name, source: what reports call the pipeline, and where it comes from.
        adapter: serves the model, itself or by name; found by the model's class if None.
        layout: vision spans, for inputs that the adapter cannot read.
        profile: measure times (synchronises a GPU around each role).
        trace: keep assignments, importances and layouts with each report.
        check_finite: stop with `NumericError` when a stage meets NaN or infinity (reads a value on
            the host at each stage).
        keep_reports: the latest so many stay in `Session.reports`, `"all"` without bound; by default
            100, or 10 with `trace`.
        gap_warning: a `LightKVWarning`, once, if the retention of a prompt is more than 5 points
            from the one that was asked for.

    Raises:
        LightKVError: anything that cannot work; nothing is left attached to the model.
    """
    session = prepare(model, pipeline, **options).attach()
    try:
        yield session
    finally:
        session.detach()


def attach(model: nn.Module, pipeline: PipelineSource, **options: Unpack[Options]) -> Session:
    """As `compress`, with the same arguments, for servers and notebooks: stays until `detach(model)`.

    Of a server's requests the latest 100 reports are kept (`keep_reports`), so memory stays flat.
    """
    return prepare(model, pipeline, **options).attach()


def _list_keywords(function: Callable[..., object]) -> None:
    """Let `help` and notebooks show the keywords one by one, where the code says `**options`.

    `...` stands for what the pipeline has.
    """
    own, keyword = inspect.signature(function), inspect.Parameter.KEYWORD_ONLY
    shown = [each for each in own.parameters.values() if each.kind is each.POSITIONAL_OR_KEYWORD]
    defaults = {"retention": None, **(prepare.__kwdefaults__ or {})}
    for name, hint in OPTIONS.items():
        hint = hint.__forward_arg__ if isinstance(hint, ForwardRef) else hint
        default = defaults.get(name, ...)
        shown.append(inspect.Parameter(name, keyword, default=default, annotation=hint))
    function.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]


for _function in (prepare, compress, attach):
    _list_keywords(_function)


def detach(target: Session | nn.Module) -> None:
    """End a session, given itself or its model; does nothing if there is none."""
    if isinstance(target, Session):
        target.detach()
        return
    inner = unwrap(target)
    for held in list(_ACTIVE.values()):
        session = held()
        if session is None:
            continue
        if inner in (session.model, session.adapter.key_module(session.model)):
            session.detach()


def check_modalities(pipeline: Pipeline, adapter: Adapter, layout: VisionLayout | None) -> None:
    """Refuse shares of modalities that the model, or the layout that was given, does not have."""
    there = adapter.modalities if layout is None else layout.modalities
    missing = [name for name in pipeline.modalities if name not in there]
    if not missing or (layout is not None and not there):
        return
    whose = f"the adapter {adapter.name!r} knows" if layout is None else "the layout has"
    raise ConfigError(
        f"{whose} no tokens of {' and '.join(missing)}",
        field="retention",
        value=list(pipeline.modalities),
        remedy=f"name one or more of: {', '.join(there)}, or give one number for all modalities",
    )


def _dtype(model: nn.Module) -> torch.dtype:
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return torch.float32
