"""A page for each registered preset, and one of all components, written from the code."""

from __future__ import annotations

import inspect
import re
import sys
from types import ModuleType
from typing import Any

from lightkv import Pipeline, PipelineSpec
from lightkv.cli.strategies import listing
from lightkv.core.modality import most_removed
from lightkv.core.plugins import registry
from lightkv.strategies import METHODS
from lightkv_site.links import anchors

DEPTH = 32
"""Decoder layers of the example on each page: those of a 7B model."""
ROLES = ("partitioner", "scorer", "matcher", "aggregator", "positions")
ABOUT_ROLES = {
    "partitioner": "A partitioner sorts the vision tokens into windows. It sees geometry, never values.",
    "scorer": "A scorer says how much each token matters.",
    "matcher": "A matcher says which tokens of a window survive, and where each other token goes.",
    "aggregator": "An aggregator says what becomes of the tokens that go into a survivor.",
    "positions": "A position policy says which rotary positions survivors have.",
}
PRESET = """# {name}

{words}

[Formulas, choices and figures](../strategies.md#{anchor}){{ .md-button }}

## At a glance

| question | answer |
|---|---|
{facts}

Layers are counted on a decoder with {depth} of them.

## Use it

```python
import lightkv

with lightkv.compress(model, "{name}") as run:
    output = model.generate(**inputs)
print(run.last)
```

`retention=` asks for another share of the vision tokens, and each role can be replaced by name:
[pipelines](../pipelines.md) shows how.

## Parts

{parts}

## Tokens per layer

Each bar is the share of the vision tokens that one of {depth} decoder layers keeps in its cache, at the
preset's own retention: {retention} as planned, before it is rounded to whole tokens.

{bars}

## As YAML

```yaml
{yaml}
```
"""
PRESETS = """# Presets

These {count} presets come with lightkv. This page and the page of each preset are written from the code
when the site is built. [Strategies](../strategies.md) has the formulas, what was chosen where a paper
and its code differ, and what each preset scored. [Components](components.md) lists the parts that
presets are made of. Layers are those of a decoder with {depth} of them.

| preset | where it acts | what it reads | published in |
|---|---|---|---|
{rows}
"""
COMPONENTS_HEAD = """# Components

A preset has one component for each role. This page is written from the code when the site is built;
`lightkv strategies --verbose` prints the same lists, with those of your plugins.
"""
PAGE = "presets/{}.md"
COMPONENTS = "presets/components.md"
INDEX = "presets/index.md"


def pages(prose: str) -> dict[str, str]:
    """Page of the site → its Markdown.

    Args:
        prose: the page docs/strategies.md, which has a section on each preset.
    """
    presets = [entry.value for entry in registry().presets.values()]
    shown = [preset for preset in presets if isinstance(preset, PipelineSpec)]
    found = {PAGE.format(p.name): preset_page(p, section(p.name, prose)) for p in shown}
    found[INDEX] = index_page(shown)
    found[COMPONENTS] = components_page()
    return found


def names() -> list[str]:
    """All presets, as `lightkv strategies` lists them."""
    return list(registry().presets)


def section(name: str, prose: str) -> str:
    """The anchor of a preset's section; one heading may name two presets.

    Raises:
        LookupError: there is no section.
    """
    for anchor in anchors(prose):
        if name == anchor or name in anchor.split("-and-"):
            return anchor
    raise LookupError(f"docs/strategies.md has no section {name!r}")


def preset_page(spec: PipelineSpec, anchor: str) -> str:
    """What the code says of a preset: its words, its parts, its stages."""
    pipeline = Pipeline.build(spec, DEPTH)
    return PRESET.format(
        name=spec.name,
        words=_docstring(_module(spec.name)),
        anchor=anchor,
        facts="\n".join(f"| {ask} | {answer} |" for ask, answer in _facts(spec, pipeline).items()),
        parts="\n".join(_parts(spec, pipeline)),
        depth=DEPTH,
        retention=_percent(pipeline.retention),
        bars=_bars(pipeline),
        yaml=spec.to_yaml().rstrip(),
    )


def index_page(specs: list[PipelineSpec]) -> str:
    """The table of all presets, and the way to the others."""
    rows = []
    for spec in specs:
        facts = _facts(spec, Pipeline.build(spec, DEPTH))
        cells = [f"[`{spec.name}`]({spec.name}.md)", facts["Where it acts"]]
        cells += [facts["What it reads"], facts["Published in"]]
        rows.append(f"| {' | '.join(cells)} |")
    return PRESETS.format(count=len(specs), depth=DEPTH, rows="\n".join(rows))


def components_page() -> str:
    """Every registered component with its words and parameters, role by role."""
    lines = [COMPONENTS_HEAD]
    data = {(row["role"], row["name"]): row for row in listing(registry())["components"]}
    for role in ROLES:
        lines += [f"## {_title(role)}", "", ABOUT_ROLES[role], ""]
        for (of, name), entry in sorted(registry().components.items()):
            if of == role:
                lines += _component(role, name, entry.value, data[of, name])
    return "\n".join(lines)


def _component(role: str, name: str, cls: type, row: dict[str, Any]) -> list[str]:
    words, meanings = described(_docstring(cls))
    lines = [f"### `{name}` {{ #{role}-{name} }}", "", words, ""]
    facts = []
    if row["requires"]:
        facts.append("It reads " + ", ".join(f"`{need}`" for need in row["requires"]) + ".")
    if row["source"]:
        facts.append(f"Source: {row['source']}.")
    lines += [" ".join(facts), ""] if facts else []
    return lines + parameter_table(row["parameters"], meanings)


def parameter_table(parameters: list[dict[str, Any]], meanings: dict[str, str]) -> list[str]:
    """What a component takes, with types and defaults; no lines where it takes nothing."""
    if not parameters:
        return []
    lines = ["| parameter | type | default | meaning |", "|---|---|---|---|"]
    for each in parameters:
        default = "required" if each["required"] else f"`{each['default']}`"
        kind = ", ".join(f"`{part}`" for part in each["type"].split(" | "))
        meaning = meanings.get(each["name"], "").replace("|", "\\|")
        lines.append(f"| `{each['name']}` | {kind} | {default} | {meaning} |")
    return [*lines, ""]


def described(docstring: str) -> tuple[str, dict[str, str]]:
    """A docstring's words, and what its section `Attributes` says of each."""
    words, _, section = docstring.partition("\nAttributes:\n")
    meanings: dict[str, str] = {}
    lines = section.splitlines()
    end = next((i for i, line in enumerate(lines) if line and line[0] != " "), len(lines))
    named: list[str] = []
    for line in lines[:end]:
        found = re.match(r" {4}(\w+(?:, \w+)*): (.*)", line)
        named = found[1].split(", ") if found else named
        for name in named:
            meanings[name] = found[2] if found else f"{meanings[name]} {line.strip()}".strip()
    return "\n".join([words.rstrip(), *lines[end:]]).rstrip(), meanings


def _facts(spec: PipelineSpec, pipeline: Pipeline) -> dict[str, str]:
    """Questions about a preset → what its stages answer."""
    layers = [str(placed.after_layer) for placed in pipeline.stages if placed.after_layer]
    places = []
    if any(placed.after_layer == 0 for placed in pipeline.stages):
        places.append("before the decoder")
    if layers:
        places.append(f"after layer{'s' * (len(layers) > 1)} {_joined(layers)}")
    if any(placed.site == "cache" for placed in pipeline.stages):
        places.append("on the cache of every layer")
    needs = sorted({str(need) for placed in pipeline.stages for need in placed.needs})
    ratios = [most_removed(placed.spec.ratio) for placed in pipeline.stages]
    removed = _joined(list(dict.fromkeys(map(_percent, ratios))))
    return {
        "Published in": spec.source,
        "Where it acts": _joined(places),
        "What each stage removes": f"{removed} of what is there",
        "What it reads": ", ".join(f"`{need}`" for need in needs) or "hidden states only",
        "Retention by default": f"{_percent(pipeline.retention)}, as planned for {DEPTH} layers",
    }


def _parts(spec: PipelineSpec, pipeline: Pipeline) -> list[str]:
    lines = ["| role | component | parameters |", "|---|---|---|"]
    for role, value in [*spec.roles().items(), ("positions", spec.positions)]:
        lines.append(f"| {role} | {_linked(role, value)} | {_parameters(value)} |")
    overridden = [
        (number, role, value)
        for number, placed in enumerate(pipeline.stages, start=1)
        for role, value in placed.spec.overrides.items()
    ]
    if overridden:
        lines += [
            "",
            "Some stages have other parts:",
            "",
            "| stage | role | component | parameters |",
        ]
        lines += ["|---|---|---|---|"]
        lines += [
            f"| {number} | {role} | {_linked(role, value)} | {_parameters(value)} |"
            for number, role, value in overridden
        ]
    return lines


def _plain(value: Any) -> dict[str, Any]:
    """A component as a spec names it: a name, a mapping, or nothing."""
    if value is None:
        return {}
    return {"name": value} if isinstance(value, str) else dict(value)


def _linked(role: str, value: Any) -> str:
    name = _plain(value).get("name")
    return f"[`{name}`](components.md#{role}-{name})" if name else "none"


def _parameters(value: Any) -> str:
    given = {key: each for key, each in _plain(value).items() if key != "name"}
    return ", ".join(f"`{key}: {each}`" for key, each in given.items())


def _bars(pipeline: Pipeline) -> str:
    """A bar for each layer; a picture of text, so that it follows the colours of the page."""
    bars = []
    for number, share in enumerate(pipeline.schedule.shares(DEPTH), start=1):
        title = f"layer {number}: {_percent(share)}"
        bars.append(f'<i style="height: {100 * share:.1f}%" title="{title}"></i>')
    label = "share of the vision tokens that each layer keeps"
    axis = f"<span>layer 1</span><span>layer {DEPTH}</span>"
    return (
        f'<div class="layers" role="img" aria-label="{label}">{"".join(bars)}</div>\n'
        f'<div class="layers-axis">{axis}</div>'
    )


def _module(preset: str) -> ModuleType | type:
    """The module that brought a preset; for one of several in a module that module too."""
    for method in METHODS:
        module = sys.modules[f"lightkv.strategies.{method}"]
        own = getattr(module, "PRESETS", None) or (module.PRESET,)
        if any(spec.name == preset for spec in own):
            return module
    return PipelineSpec


def _docstring(thing: object) -> str:
    """Its words; pages that they name are links."""
    return re.sub(r"\bdocs/([\w-]+)\.md", r"[\1](../\1.md)", inspect.getdoc(thing) or "")


def _joined(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def _title(role: str) -> str:
    return {"positions": "Position policies"}.get(role, f"{role.capitalize()}s")
