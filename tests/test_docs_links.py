"""Links of all pages lead somewhere, and the pages that the site makes from code are complete."""

import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from lightkv_site import links, presets, reference
from lightkv_site.sources import BROUGHT, Places

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BUILT = {"build", "site-packages"}
PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in [
        *ROOT.glob("*.md"),
        *DOCS.rglob("*.md"),
        *DOCS.rglob("*.ipynb"),
        *(ROOT / "lightkv").rglob("*.md"),
        *(ROOT / "training").rglob("*.md"),
    ]
    if not BUILT & set(page.parts)
)


def test_every_link_and_anchor_leads_somewhere():
    assert len(PAGES) > 25
    assert links.dead(ROOT, PAGES) == []


def test_what_is_dead_is_found(tmp_path):
    (tmp_path / "there.md").write_text("# A `b_c`, d\n\n## Same\n\n## Same\n")
    (tmp_path / "page.md").write_text(
        "[a](there.md#a-b_c-d) [b](there.md#same-1) ![c](none.png)\n"
        "[d](there.md#same-2) `[e](code.md)` [f](https://example.org/x)\n"
        "```text\n[g](fenced.md)\n```\n[h](#here) [i](../outside.md)\n[j]: there.md\n"
    )
    assert links.dead(tmp_path, ["page.md"]) == [
        "page.md:7: write the target at the link",
        "page.md:1: none.png",
        "page.md:2: there.md#same-2",
        "page.md:6: #here",
        "page.md:6: ../outside.md",
    ]


def test_targets_are_rewritten_outside_of_code():
    page = "[a](x.md#y) `[b](x.md)` ![c](p.svg)\n```\n[d](x.md)\n```\n"
    changed = links.rewritten(page, lambda target: f"../{target}")
    assert changed == "[a](../x.md#y) `[b](x.md)` ![c](../p.svg)\n```\n[d](x.md)\n```\n"


def navigation() -> list[str]:
    """The pages that mkdocs.yml lists."""

    def listed(entry):
        if isinstance(entry, str):
            return [entry]
        values = entry.values() if isinstance(entry, dict) else entry
        return [page for value in values for page in listed(value)]

    return listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])


def given_anchors(markdown: str) -> set[str]:
    """Anchors that pages of the site name in the heading, which code hosts do not know."""
    return set(re.findall(r"^#.*\{ #([\w-]+) \}$", markdown, re.M))


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """The pages that the site makes from code."""
    return presets.pages((DOCS / "strategies.md").read_text(encoding="utf-8")) | reference.pages()


def test_every_page_is_in_the_navigation(made):
    listed = navigation()
    assert len(listed) == len(set(listed))
    written = {str(page.relative_to(DOCS)) for page in DOCS.glob("*.md")}
    assert written - set(listed) == set()
    assert set(listed) - written - set(BROUGHT.values()) - set(made) == {
        "examples/lightkv-outliers/README.md",
        "examples/tour.md",
    }


def test_every_preset_and_component_has_its_place(made):
    from lightkv.core.plugins import registry

    components = given_anchors(made[presets.COMPONENTS])
    own = {k for k, e in registry().components.items() if e.package == "lightkv"}
    assert {f"{role}-{name}" for role, name in own} <= components
    for name, entry in registry().presets.items():
        page = made[presets.PAGE.format(name)]
        assert page.startswith(f"# {name}\n")
        assert entry.value.to_yaml().rstrip() in page


def test_pages_made_from_code_lead_somewhere(made):
    @cache
    def known(page):
        text = made[page] if page in made else (DOCS / page).read_text(encoding="utf-8")
        return {"", *links.anchors(text), *given_anchors(text)}

    for page, markdown in made.items():
        for link in links.links(markdown):
            anchors = known(links.resolved(page, link.path))
            assert link.anchor in anchors, f"{page}: {link.target}"


def test_every_public_name_is_in_the_reference(made):
    for module in reference.modules():
        groups = reference.grouped(module)
        assert reference.UNGROUPED not in groups, f"{module}: {groups} (docs/site/reference.yaml)"
        for name in (name for names in groups.values() for name in names):
            assert f"heading: {name}\n" in made[reference.page_of(module)], f"{module}.{name}"


def test_files_that_pages_name_become_pages():
    places = Places(ROOT)
    places.collect(PAGES)
    assert places.page("docs/house.md") == "house.md"
    assert places.page("docs/images/overview.svg") == "images/overview.svg"
    assert places.page("docs/site/site.css") == "source/docs/site/site.css.md"
    assert places.page("README.md") == places.page("") == "overview.md"
    assert places.page("lightkv/core/needs.py") == "source/lightkv/core/needs.py.md"
    assert places.origin("source/lightkv/core/needs.py.md") == "lightkv/core/needs.py"
    assert places.origin("presets/tome.md") == ""
    assert "class Need" in places.content("lightkv/core/needs.py")
    for path in places.wanted:
        assert "# " in places.content(path)
    with pytest.raises(FileNotFoundError):
        places.page("lightkv/none.py")
