"""The table of all cells: columns, filters, and what each row says."""

from __future__ import annotations

from typing import Any

from lightkv.core import yamls
from lightkv.lab.outcomes import Cell
from lightkv.lab.reporting.formatting import bytes_text, figure_text
from lightkv.lab.reporting.study import Row, Study
from lightkv.lab.stats import Estimate

Json = dict[str, Any]
FIGURES = (
    ("retention", "Retention", "mean share of vision KV over all layers, achieved"),
    ("flops", "FLOPs", "of prefill, relative to the uncompressed model"),
    ("kv_bytes", "KV", "bytes of the cache, relative to the uncompressed model"),
)
MEASURED = (
    ("First token", "seconds until the first token of one prompt: the median of several"),
    ("Peak", "memory beyond weights and inputs while one prompt is prefilled"),
)


def table_of(study: Study) -> Json:
    """`heads`, `filters` and `rows` of the page's template."""
    factors = _varying(study)
    statuses = list(dict.fromkeys(row.cell.status for row in study.rows))
    heads = [{"text": "#", "title": "place in the grid", "number": False}]
    heads += [{"text": factor, "title": f"factor {factor}", "number": False} for factor in factors]
    heads.append({"text": "Status", "title": "of the cell", "number": False})
    heads += [{"text": text, "title": title, "number": True} for _, text, title in FIGURES]
    measured = any(row.cell.measured is not None for row in study.rows)
    if measured:
        heads += [{"text": text, "title": title, "number": True} for text, title in MEASURED]
    heads += [
        {"text": "Score [95 %]", "title": "mean over samples", "number": True},
        {"text": "To baseline [95 %]", "title": "paired difference in score", "number": True},
        {"text": "p", "title": "McNemar's exact test", "number": True},
        {"text": "p, Holm", "title": "corrected for all tests of the page", "number": True},
    ]
    filters = [
        {"name": factor, "index": 1 + number, "labels": labels}
        for number, (factor, labels) in enumerate(factors.items())
    ]
    if len(statuses) > 1:
        filters.append({"name": "status", "index": 1 + len(factors), "labels": statuses})
    span = _span(study)
    rows = [_row(study, row, list(factors), span, measured) for row in study.rows]
    return {"heads": heads, "filters": filters, "rows": rows}


def _varying(study: Study) -> dict[str, list[str]]:
    """Factor → its labels, in order; only those with more than one."""
    found: dict[str, dict[str, None]] = {}
    for row in study.rows:
        for factor, label in row.cell.factors.items():
            if factor != "cell" or not row.plain:
                found.setdefault(factor, {})[label] = None
    several = {factor: list(labels) for factor, labels in found.items() if len(labels) > 1}
    # Axes first, as the grid has them; what every grid has stands behind them.
    last = [factor for factor in ("model", "task", "retention", "seed") if factor in several]
    return {f: several[f] for f in [*(f for f in several if f not in last), *last]}


def _row(
    study: Study, row: Row, factors: list[str], span: tuple[float, float], measured: bool
) -> Json:
    cell = row.cell
    share = row.group is None or study.groups[row.group].share
    name = cell.factors.get("cell", "") if "cell" not in factors or row.plain else ""
    fields: list[Json] = [_field(f"{cell.position + 1} {name}".strip(), cell.position)]
    fields += [_field(cell.factors.get(f, "–"), cell.factors.get(f, "")) for f in factors]
    fields.append(_field(cell.status, cell.status, css="status", title=cell.reason))
    for key, _, _ in FIGURES:
        value = getattr(cell, key)
        best = key in row.front
        css = "number front" if best else "number"
        title = f"on the Pareto front of score against {key}" if best else ""
        fields.append(_field(_share(value), value, css=css, title=title))
    if measured:
        fields += _measured(cell)
    fields += [_estimate(row.score, share), _change(row, share, span)]
    fields += [_field(_probability(p), p, css="number") for p in (row.p, row.holm)]
    remark = study.meta.get("remarks", {}).get(cell.id, "")
    return {
        "number": cell.position,
        "name": cell.name,
        "status": cell.status,
        "reason": cell.reason,
        "remark": remark,
        "text": " ".join([cell.name, *cell.factors.values(), cell.status, cell.reason, remark]),
        "fields": fields,
        "made": _made(row),
        "spec": _yaml(cell.spec),
        "pipeline": _yaml(cell.spec["pipeline"]) if cell.spec.get("pipeline") else "",
    }


def _measured(cell: Cell) -> list[Json]:
    """Time to the first token and peak memory, with the machine as a title."""
    found = cell.measured
    if found is None:
        return [_field("", None, css="number"), _field("", None, css="number")]
    texts = (
        (f"{1000 * found.first_token:.3g} ms", found.first_token),
        (bytes_text(found.peak_bytes), found.peak_bytes),
    )
    return [_field(text, value, css="number", title=found.where) for text, value in texts]


def _field(
    text: str, sort: Any, css: str = "", title: str = "", more: str = "", bar: Json | None = None
) -> Json:
    plain = "" if sort is None else str(sort)
    return {"text": text, "sort": plain, "css": css, "title": title, "more": more, "bar": bar}


def _estimate(score: Estimate | None, share: bool) -> Json:
    if score is None:
        return _field("", None, css="number")
    low, high = (figure_text(each, share=share) for each in (score.low, score.high))
    text = figure_text(score.value, share=share)
    return _field(text, score.value, css="number estimate", more=f"[{low}, {high}]")


def _change(row: Row, share: bool, span: tuple[float, float]) -> Json:
    """The difference to the baseline, with a drawing of its interval on a common scale."""
    change = row.change
    if change is None:
        return _field("", None, css="number")
    css = "number estimate change"
    if change.clear:
        css += " clear-up" if change.value > 0 else " clear-down"
    left, width = span

    def at(value: float) -> float:
        return round(100.0 * (value - left) / width, 2)

    bar = None
    if share:
        bar = {"zero": at(0.0), "left": at(change.low), "at": at(change.value)}
        bar["width"] = round(at(change.high) - at(change.low), 2)
    low, high = (figure_text(each, share=share, signed=True) for each in (change.low, change.high))
    return _field(
        figure_text(change.value, share=share, signed=True),
        change.value,
        css=css,
        title=f"against {row.base}",
        more=f"[{low}, {high}]",
        bar=bar,
    )


def _span(study: Study) -> tuple[float, float]:
    """Left end and width of the scale that all differences are drawn on."""
    shares = [row for group in study.groups if group.share for row in group.rows]
    changes = [row.change for row in shares if row.change is not None]
    low = min([0.0, *(change.low for change in changes)])
    high = max([0.0, *(change.high for change in changes)])
    return low, (high - low) or 1.0


def _made(row: Row) -> str:
    cell = row.cell
    parts = [f"identity {cell.id}"]
    if cell.seconds is not None:
        parts.append(f"{cell.seconds:.1f} s")
    if row.base:
        parts.append(f"compared with {row.base}")
    parts += [f"{name} {version}" for name, version in cell.versions.items()]
    return " · ".join(parts)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _probability(p: float | None) -> str:
    if p is None:
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _yaml(data: Any) -> str:
    return yamls.dump(data, width=100)
