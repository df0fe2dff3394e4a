"""`lightkv strategies`: everything that is registered, and what failed to register."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from lightkv.cli.options import Json
from lightkv.cli.output import console, print_json
from lightkv.core.errors import ConfigError, LightKVError

if TYPE_CHECKING:
    from lightkv.core.contracts import Component
    from lightkv.core.hookspecs import Preset
    from lightkv.core.needs import Needs
    from lightkv.core.plugins import Registry


def strategies(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="With parameters and the YAML of presets.")
    ] = False,
    json: Json = False,
) -> None:
    """List presets, components and adapters, with their source and the package they come from.

    Beside a preset whose components cannot be built stands why.
    """
    from lightkv.core import plugins

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # failed plugins are part of the listing
        data = listing(plugins.registry())
    if json:
        print_json(data)
        return
    _show(data, verbose)


def listing(registry: Registry) -> dict[str, Any]:
    """Everything registered, as plain data."""
    components = [
        {
            "role": role,
            "name": name,
            "package": entry.package,
            "source": entry.value.source,
            "requires": sorted(map(str, _requires(entry.value))),
            "parameters": parameters_of(entry.value),
        }
        for (role, name), entry in registry.components.items()
    ]
    presets = [
        {
            "name": name,
            "package": entry.package,
            "source": entry.value.source,
            "retention": getattr(getattr(entry.value, "schedule", None), "retention", None),
            "yaml": entry.value.to_yaml(),
            "error": _error(entry.value),
        }
        for name, entry in list(registry.presets.items())
    ]
    adapters = [
        {"name": name, "package": entry.package, "models": entry.value.models}
        for name, entry in registry.adapters.items()
    ]
    failed = [{"plugin": error.field, "error": str(error)} for error in registry.failures]
    return {"presets": presets, "components": components, "adapters": adapters, "failed": failed}


def _error(preset: Preset) -> str | None:
    """Why the components of a preset cannot be built, None if they can.

    Presets may name components of plugins that are loaded later, so nobody asks before all are there.
    """
    from lightkv.core.pipeline.pipeline import resolve_spec

    try:
        resolve_spec(preset.name).check_components()
    except LightKVError as error:
        return str(error)
    return None


def _requires(cls: type[Component]) -> Needs:
    """What it needs with default parameters, or what the class declares if it has required ones."""
    try:
        return cls().needs()
    except ConfigError:
        return cls.requires


def parameters_of(cls: type[Component]) -> list[dict[str, Any]]:
    """Name, type and default of each parameter of a component."""
    schema = cls.model_json_schema().get("properties", {})
    return [
        {
            "name": name,
            "type": _type(schema.get(name, {})),
            "default": None if field.is_required() else field.default,
            "required": field.is_required(),
        }
        for name, field in cls.model_fields.items()
    ]


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema's type in few words."""
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " | ".join(_type(part) for part in schema["anyOf"])
    return str(schema.get("type", "any"))


def _show(data: dict[str, Any], verbose: bool) -> None:
    out = console()
    presets = [{**row, "retention": _share(row["retention"])} for row in data["presets"]]
    columns: tuple[str, ...] = ("name", "retention", "source", "package")
    if any(row["error"] for row in presets):
        presets = [{**row, "cannot run": row["error"] or ""} for row in presets]
        columns = ("name", "cannot run", *columns[1:])
    out.print(_table("Presets", presets, columns))
    components = [{**row, "requires": ", ".join(row["requires"])} for row in data["components"]]
    columns = ("role", "name", "requires", "source", "package")
    out.print(_table("Components", components, columns))
    out.print(_table("Adapters", data["adapters"], ("name", "models", "package")))
    for failure in data["failed"]:
        out.print(f"failed: {failure['error']}", style="red")
    if verbose:
        _show_details(data, out)


def _share(retention: Any) -> str:
    """The retention that a preset asks for by itself, where it is one number."""
    return f"{retention:.3g}" if isinstance(retention, float) else ""


def _show_details(data: dict[str, Any], out: Console) -> None:
    """Parameters of components, and presets as files for `lightkv run --pipeline`."""
    out.print("Parameters", style="bold")
    for row in data["components"]:
        for parameter in row["parameters"]:
            out.print(f"  {row['role']} {row['name']}: {_signature(parameter)}")
    for preset in data["presets"]:
        out.print(f"\nPreset {preset['name']}", style="bold")
        out.print(preset["yaml"].rstrip())


def _signature(parameter: dict[str, Any]) -> str:
    default = "required" if parameter["required"] else f"= {parameter['default']}"
    return f"{parameter['name']}: {parameter['type']} {default}"


def _table(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column in ("name", "role"))
    for row in rows:
        table.add_row(*(str(row[column]) for column in columns))
    return table
