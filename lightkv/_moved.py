"""Where the modules of lightkv 0.1 are now: who imports an old one is told its new place.

The finder stands last in `sys.meta_path`, from the import of lightkv on. That is lasting state, but
none that changes anything: it is asked only where no other finder has found a module, answers only
for the names in `MOVED`, and then with an ImportError where there would have been another one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

_ROOMS = """
core core: finite>numerics precision>numerics places>layout layout_checks>layout vision>encoder
core core: inputs>contracts roles>contracts
core core.stage: stage plan work>step cache>cache_entries functional
core core.pipeline: entries>stage_spec schedule solver recipe building>pipeline
core core.cost: flops costs>flops counting
core core.run: adapter engine session profile reports tracing report report_table>report
core core.run: gap>report
adapters adapters.families: eve fuyu gemma3 generic glm4v idefics3 internvl internvl_chat llava
adapters adapters.families: llava_next llava_next_video llava_onevision mistral3 paligemma
adapters adapters.families: qwen3_vl qwen_vl video_llava
adapters adapters.pictures: placing patches tiles
adapters adapters.hf: contact hf>adapter attachment inputs callers masks rotary capture>features
adapters adapters.hf: passes>forward passing>pass_lock tap>interface_tap records>cache_record
adapters adapters.hf: cache_checks guard>cache_guard eviction>cache_site watch>attention_tap
adapters adapters.hf: peek>next_layer encoder ranks>tensor_parallel selfcheck
adapters adapters.hf: uncopied>not_copyable compiled>hook_checks checkpointing>hook_checks
adapters adapters.remote: remote>adapter remote_tap>projection_tap tuple_cache
strategies strategies.components: windows bipartite selection clusters magnitude tiles guided
strategies strategies.components: guidance>attention_scorers matcher_wrappers
strategies strategies.components: wrappers>scorer_wrappers encoder>class_attention
strategies strategies.components: adaptive>adaptive_bipartite
strategies strategies: common>components
cli checkpoints: loading>load descriptions>published
cli cli: command_ablate>ablate command_demo>demo command_report>report command_run>run
cli cli: command_show>show command_strategies>strategies command_tune>tune
cli cli.plan: command_plan>command planning>options sweep plotting>plot tracing>trace
demo demo: evaluate>asking
demo checkpoints: processing>clip_processor
lab checkpoints: prompts imaging>pictures
lab lab: records>outcomes
lab lab.grids: grid>schema forms>schema combining>expand planning>cells repeats>cells
lab lab.grids: database>store store resuming>resume runner>run pool>pools ray_runner>ray_pool
lab lab.grids: work>worker summaries>table
lab lab.search: tuner tuning>tune wishes>tune candidates searching>smallest racing>smallest
lab lab.search: margins>loss_bounds evaluating>evaluator evidence>result
lab.pictures lab.pictures: api>show arguments>show
lab.tasks lab.tasks: agreement>build perplexity>build
lab integrations: lmms>lmms_eval
lab.lmms integrations.lmms_eval: decoding>generation numbers>generation model prompts settings
lab.reporting lab: bootstrap>stats
lab.reporting lab.reporting: words>formatting api>page drawing>figures quality>figures
"""
"""Old package, new package: modules of the old one as `name`, or `old name>new name`."""
_TRAINING = "train packing pointer state tower deepen build_digits architecture"
"""Of `lightkv.demo`; they are no longer in the package."""

AUTHORS = "lightkv.plugin"
"""Where authors of strategies and adapters import from."""
_OF_AUTHORS = {
    "lightkv.core": "inputs places precision roles vision adapter flops pipeline entries stage",
    "lightkv.adapters": "hf inputs encoder patches placing tiles capture masks rotary records",
    "lightkv.strategies": (
        "bipartite clusters common encoder guidance guided magnitude matcher_wrappers selection "
        "tiles windows wrappers"
    ),
}
"""Old modules whose contents they took."""


def _table() -> dict[str, str]:
    found = {f"lightkv.demo.{name}": f"training.{name}" for name in _TRAINING.split()}
    for line in _ROOMS.strip().splitlines():
        rooms, _, names = line.partition(":")
        old_room, new_room = rooms.split()
        for name in names.split():
            old, _, new = name.partition(">")
            found[f"lightkv.{old_room}.{old}"] = f"lightkv.{new_room}.{new or old}"
    return found


MOVED = _table()
"""Old module → the module that it is now, or that its contents are in."""

NAMES = {
    "lightkv.core.stage": {"Stage": "lightkv"},
    "lightkv.adapters.hf": {
        "HFAdapter": AUTHORS,
        "decoder_shape": "lightkv.adapters.hf.shapes",
        "refuse_other_heads": "lightkv.adapters.hf.adapter",
        "sliding_windows": "lightkv.adapters.hf.masks",
    },
    "lightkv.adapters.remote": {
        "RemoteAdapter": AUTHORS,
        "RemoteAttachment": "lightkv.adapters.remote.attachment",
    },
}
"""What old modules held whose names are packages now, and where to import it from."""


def message(old: str) -> str:
    """What somebody is told who imports an old module."""
    new = MOVED[old]
    room, _, module = old.rpartition(".")
    told = f"{old} of lightkv 0.1 is now {new}"
    if new.startswith("training."):
        return f"{told}, in a checkout and no longer in the package; there write `import {new}`"
    if module in _OF_AUTHORS.get(room, "").split():
        return (
            f"{told}; all that authors of strategies and adapters need is in {AUTHORS}: write "
            f"`from {AUTHORS} import …`"
        )
    return f"{told}; write `from {new} import …`"


class Finder(MetaPathFinder):
    """Finds no module; for those in `MOVED` it says where they are."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        if fullname in MOVED:
            # No ModuleNotFoundError: of that one `from package import module` forgets the text.
            raise ImportError(message(fullname), name=fullname)


def install() -> None:
    """Put the finder behind all others, once."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder())


def names_of(package: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package that has the name of an old module."""

    def __getattr__(name: str) -> Any:
        if name in NAMES[package]:
            told = f"{name} of {package} in lightkv 0.1 is elsewhere; "
            told += f"write `from {NAMES[package][name]} import {name}`"
            raise ImportError(told, name=package)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__
