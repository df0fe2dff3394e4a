"""What a search found, and whether it beats what was made by hand."""

from __future__ import annotations

from kept import Kept, Row

from evidence_page.figures import NOTHING, bounds, table, text
from lightkv.lab.stats import Estimate


def search(kept: Kept) -> str:
    """What a search found: best designs and the test, the front, what mattered."""
    found = kept.found
    counts = ", ".join(
        f"{count} {name.replace('_', ' ')}" for name, count in found["trials"].items() if count
    )
    lines = [
        f"Trials: {counts}. Uncompressed: {100 * found['score']:.1f} of {found['samples']:,} "
        f"questions about {found['clusters']:,} {kept.head['study']['task']['name']} of training scans."
    ]
    if not found["duels"]:
        lines.append("The held-out data have not been asked yet.")
    lines += [_best(found), "The front, and what was made by hand:", _front(found)]
    if found["effects"]:
        lines += ["What went with the score:", _mattered(found)]
    return "\n\n".join(lines)


def _estimate(data: Row | None) -> Estimate | None:
    return None if data is None else bounds(data, "value", "low", "high")


def _best(found: Row) -> str:
    """At each retention the best drawn design against the best one made by hand."""
    designs = {design["name"]: design for design in found["designs"]}
    duels = {duel["retention"]: duel for duel in found["duels"]}
    rows = []
    for best in found["best"]:
        row = [best["retention"]]
        for name in (best["drawn"], best["hand_made"]):
            design = designs.get(name or "", {})
            row += [name or NOTHING, text(_estimate(design.get("held_out")))]
        change = _estimate(duels.get(best["retention"], {}).get("change"))
        rows.append([*row, text(change), _better(change)])
    heads = ["retention", "best drawn", "held out", "best by hand", "held out", "drawn − by hand"]
    return table([*heads, "better?"], rows)


def _better(change: Estimate | None) -> str:
    if change is None:
        return NOTHING
    if change.low <= 0.0 <= change.high:
        return "undecided"
    return "yes" if change.value > 0.0 else "no, worse"


def _front(found: Row) -> str:
    rows = []
    for design in sorted(found["designs"], key=lambda each: each["flops"] or 0.0):
        choices = ", ".join(f"{key} {label}" for key, label in design["choices"].items())
        texts = (text(_estimate(design[key])) for key in ("change", "held_out"))
        name = design["name"] + (" *" if design["on_front"] else "")
        costs = f"{design['retention']:.3f}", f"{design['flops']:.3f}"
        rows.append([name, *costs, *texts, choices or NOTHING])
    return table(["design", "retention", "FLOPs", "searched", "held out", "choices"], rows)


def _mattered(found: Row) -> str:
    rows = []
    for effect in found["effects"]:
        best = effect["levels"][0]
        rows.append(
            [
                f"`{effect['path']}`",
                f"{effect['share']:.2f}",
                "< 0.01" if effect["p"] < 0.01 else f"{effect['p']:.2f}",
                f"{best['label']} ({100 * best['gain']:+.1f} points, {best['trials']} trials)",
            ]
        )
    return table(["choice", "ω²", "p, Holm", "best level"], rows)
