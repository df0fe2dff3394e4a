"""Finding components, presets and adapters: one registry, filled by plugins through hooks."""

from __future__ import annotations

import importlib.metadata
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, Generic, Literal, TypeVar

import pluggy

from lightkv.core import hookspecs
from lightkv.core.contracts import ROLES, Component, check_component
from lightkv.core.errors import ConfigError, PluginError, UnknownNameError, first_of, nearest
from lightkv.core.hookspecs import ModelFamily, Preset
from lightkv.core.strict import check_plain

GROUP = "lightkv"
BUILT_IN_ADAPTERS = "adapters"
"""The entry point of lightkv's own that is left for later: it brings the host library of models, which
takes seconds to import, and what only counts or composes asks for no adapter."""
T = TypeVar("T")
Kind = Literal["preset", "adapter"]


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered thing and the distribution that brought it."""

    value: T
    package: str


class Registry:
    """Everything that plugins registered, and the plugins that failed.

    Attributes:
        components: (role, name) → component class.
        presets: name → pipeline spec.
        adapters: name → adapter, in order of registration, lightkv's own first. Those are imported when
            somebody first asks for `adapters`.
        failures: one `PluginError` for each plugin or item that could not be taken; what is wrong with
            adapters stands there once they were asked for.
    """

    def __init__(self) -> None:
        self.components: dict[tuple[str, str], Entry[type[Component]]] = {}
        self.presets: dict[str, Entry[Preset]] = {}
        self._adapters: dict[str, Entry[ModelFamily]] = {}
        self._later: list[importlib.metadata.EntryPoint] = []
        self._lock = threading.RLock()
        self.failures: list[PluginError] = []
        self._kinds: dict[Kind, tuple[dict[str, Entry[Any]], type[Any], str]] = {
            "preset": (self.presets, Preset, "a lightkv.PipelineSpec"),
            "adapter": (self._adapters, ModelFamily, "a subclass of Adapter"),
        }
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)

    # -- loading ------------------------------------------------------------------------------

    def load_entry_points(self) -> None:
        """Import and register every plugin of the entry-point group; failures are recorded."""
        found = importlib.metadata.entry_points(group=GROUP)
        own = [e for e in found if _package(e) == hookspecs.PROJECT]
        for entry in own + [e for e in found if e not in own]:
            if entry in own and entry.name == BUILT_IN_ADAPTERS:
                self._later.append(entry)
            else:
                self._load(entry)

    def _load(self, entry: importlib.metadata.EntryPoint) -> None:
        try:
            plugin = entry.load()
        except Exception as error:  # noqa: BLE001 - a stranger's import may raise anything
            first = first_of(error)  # transformers names it only there
            below = "" if first is error else f", after {type(first).__name__}: {first}"
            self._fail(
                f"plugin {entry.name!r} of package {_package(entry)!r} cannot be imported "
                f"({type(error).__name__}: {error}{below})",
                entry.value,
                "fix or uninstall the package; the other plugins are loaded",
                _package(entry),
            )
            return
        self.register(plugin, name=entry.name, package=_package(entry))

    @property
    def adapters(self) -> dict[str, Entry[ModelFamily]]:
        """Every adapter; those of lightkv are imported at the first call."""
        with self._lock:
            if self._later:
                later, self._later = self._later, []
                strangers = list(self._adapters.items())
                self._adapters.clear()
                for entry in later:
                    self._load(entry)
                for name, stranger in strangers:  # behind, as if lightkv's own had been there first
                    self._add(self._adapters, "adapter", name, stranger.value, stranger.package)
        return self._adapters

    def register(self, plugin: object, *, name: str, package: str) -> None:
        """Take the components, presets and adapters of one plugin."""
        if self._manager.has_plugin(name):
            self._fail(
                f"two plugins are called {name!r}; the one of {package!r} is left out",
                name,
                "rename the entry point",
                package,
            )
            return
        try:
            hash(plugin)  # pluggy keeps plugins in sets
            self._manager.register(plugin, name=name)
        except Exception as error:  # noqa: BLE001 - an entry point may name anything at all
            self._fail(
                f"plugin {name!r} of package {package!r} is not usable "
                f"({type(error).__name__}: {error})",
                name,
                "let the entry point name a module or an object with hooks, once",
                package,
            )
            return
        hooks = self._manager.subset_hook_caller
        others = [p for p in self._manager.get_plugins() if p is not plugin]
        offers: tuple[tuple[str, Callable[[Any], None]], ...] = (
            ("lightkv_components", lambda c: self._add_component(c, package)),
            ("lightkv_presets", lambda preset: self._add_named("preset", preset, package)),
            ("lightkv_adapters", lambda adapter: self._add_named("adapter", adapter, package)),
        )
        for hook, take in offers:
            try:
                hooks(hook, remove_plugins=others)(register=take)
            except Exception as error:  # noqa: BLE001 - a stranger's hook may raise anything
                self._fail(
                    f"plugin {name!r} of package {package!r} failed in {hook} "
                    f"({type(error).__name__}: {error})",
                    name,
                    "the other plugins are loaded",
                    package,
                )

    def _add_component(self, cls: type[Component], package: str) -> None:
        role = getattr(cls, "role", None)
        name = getattr(cls, "name", "")
        if role not in ROLES or not isinstance(name, str) or not name:
            self._fail(
                f"{cls!r} of {package!r} is not a component with a role and a name",
                getattr(cls, "__name__", str(cls)),
                f"subclass one of the roles: {', '.join(ROLES)}",
                package,
            )
            return
        try:
            check_component(cls)
        except ConfigError as error:
            self._fail(
                f"{error.field} of {package!r} is left out: {error.message}",
                name,
                error.remedy or "",
                package,
            )
            return
        self._add(self.components, f"{role}", (role, cls.name), cls, package)

    def _add_named(self, kind: Kind, value: object, package: str) -> None:
        table, protocol, wanted = self._kinds[kind]
        if not isinstance(value, protocol) or not isinstance(value.name, str):
            self._fail(
                f"{value!r} of {package!r} is no {kind}",
                type(value).__name__,
                f"register {wanted}",
                package,
            )
            return
        self._add(table, kind, value.name, value, package)

    def refuse(self, kind: Kind, name: str) -> PluginError:
        """Put on record that what was registered as a preset or adapter is none, and take it out.

        For those who know these classes, which the registry does not.
        """
        table, _, wanted = self._kinds[kind]
        entry = table.pop(name)
        message = f"{entry.value!r} of {entry.package!r} is no {kind}"
        self._fail(message, name, f"register {wanted}", entry.package)
        return self.failures[-1]

    def _add(
        self, table: dict[Any, Entry[Any]], kind: str, key: object, value: object, package: str
    ) -> None:
        if key in table:
            label = key[1] if isinstance(key, tuple) else key
            self._fail(
                f"{kind} {label!r} of {package!r} clashes with the one of "
                f"{table[key].package!r}, which stays",
                str(label),
                "rename the newcomer",
                package,
            )
            return
        table[key] = Entry(value, package)

    def _fail(self, message: str, field: str, remedy: str, package: str) -> None:
        error = PluginError(message, field=field, value=package, remedy=remedy)
        self.failures.append(error)
        warnings.warn(str(error), stacklevel=4)

    # -- look-up ------------------------------------------------------------------------------

    def component(self, role: str, name: str) -> type[Component]:
        """The class of a component, or an error that lists those there are."""
        if (role, name) in self.components:
            return self.components[role, name].value
        known = sorted(n for r, n in self.components if r == role)
        raise self._unknown(role, name, known)

    def preset(self, name: str) -> Preset:
        """A preset by name."""
        if name in self.presets:
            return self.presets[name].value
        raise self._unknown("preset", name, sorted(self.presets))

    def _unknown(self, kind: str, name: str, known: list[str]) -> UnknownNameError:
        failed = "; ".join(error.message for error in self.failures)
        return UnknownNameError(
            f"there is no {kind} of that name",
            field=kind,
            value=name,
            remedy=f"{nearest(name, known)}There are: {', '.join(known) or 'none'}"
            + (f" (failed plugins: {failed})" if failed else ""),
        )


def _package(entry: importlib.metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "unknown"


@lru_cache(maxsize=1)
def registry() -> Registry:
    """The process-wide registry, filled from the entry points at first use."""
    filled = Registry()
    filled.load_entry_points()
    return filled


def defined_in(module: ModuleType, base: type[T]) -> list[type[T]]:
    """The classes of a module that derive from `base`, have a name and were written there."""
    return [
        cls
        for cls in vars(module).values()
        if isinstance(cls, type)
        and issubclass(cls, base)
        and cls.__module__ == module.__name__
        and "name" in vars(cls)
    ]


def get_preset(name: str) -> Preset:
    """A registered preset."""
    return registry().preset(name)


def build_component(role: str, spec: Component | str | Mapping[str, Any]) -> Component:
    """A component from an instance, a name, or `{"name": …, parameter: value}`.

    Raises:
        UnknownNameError: nobody registered the name for this role.
        ConfigError: wrong role or wrong parameters.
    """
    if isinstance(spec, Component):
        if spec.role != role:
            raise ConfigError(
                f"a {spec.role} stands where a {role} is needed", field=role, value=spec.name
            )
        return spec
    if isinstance(spec, str):
        return registry().component(role, spec)()
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise ConfigError(
            "a component is a name or a mapping with a name",
            field=role,
            value=spec,
            remedy="such as `uniform` or `{name: top-k}`",
        )
    check_plain(spec, role)
    parameters = {key: value for key, value in spec.items() if key != "name"}
    return registry().component(role, spec["name"])(**parameters)


def checked_spec(role: str, spec: Any) -> Any:
    """For a wrapper's field that holds another component: the spec, once it is known to build.

    Raises:
        ConfigError: as `build_component`.
    """
    component = build_component(role, spec)
    return component.spec() if isinstance(spec, Component) else spec
