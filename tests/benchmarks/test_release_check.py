"""What `make release-check` decides without building anything."""

import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def release(monkeypatch):
    """Imports a module of the check by name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "release"))
    return __import__


def changelog(*headings):
    return "# Changelog\n\n" + "\n".join(f"## {heading}\n\n- Something.\n" for heading in headings)


def test_the_newest_release_of_a_changelog(release):
    newest = release("metadata").newest_release
    assert newest(changelog("[0.3.0] - 2027-01-02", "[0.2.0] - 2026-11-28")) == "0.3.0"
    assert newest("## [Unreleased]\n\n## [0.2.0] - 2026-11-28\n\n- It.\n") == "0.2.0"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (changelog("[Unreleased]", "[0.2.0] - 2026-11-28"), "changes under .Unreleased."),
        ("## [Unreleased]\n", "no release"),
        (changelog("[0.2.0]"), "no day"),
        (changelog("0.2.0"), "no heading"),
    ],
)
def test_a_changelog_that_is_not_that_of_a_release(release, text, told):
    failed = release("running").Failed
    with pytest.raises(failed, match=told):
        release("metadata").newest_release(text)


def test_the_version_is_read_without_an_import(release, tmp_path):
    metadata = release("metadata")
    for name in ("pyproject.toml", "CITATION.cff", "lightkv/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "CHANGELOG.md").write_text(changelog("[9.9] - 2030-01-01"))
    said = metadata.versions(tmp_path)
    assert said.pop("CHANGELOG.md") == "9.9"
    assert len(set(said.values())) == 1
    (tmp_path / "CITATION.cff").write_text("title: none\n")
    with pytest.raises(release("running").Failed, match=r"CITATION.cff says the version 0 times"):
        metadata.versions(tmp_path)


def test_pythons_that_are_supported_and_had(release, tmp_path):
    pythons = release("pythons")
    wanted = pythons.supported(ROOT)
    assert wanted[0] == (3, 11)
    for minor, answers in ((11, "3 11"), (12, ""), (14, "3 14")):
        program = tmp_path / f"python3.{minor}"
        program.write_text(f"#!/bin/sh\necho {answers or '; exit 127'}\n")  # a shim refuses
        program.chmod(0o755)
    (tmp_path / "python3.11-config").write_text("")
    here = pythons.had_here([tmp_path / "none", tmp_path])
    assert here == {(3, n): tmp_path / f"python3.{n}" for n in (11, 14)}
    assert pythons.chosen([(3, 11), (3, 12), (3, 14)], here) == here
    assert list(pythons.chosen([(3, 12), (3, 14)], here)) == [(3, 14)]
    assert pythons.chosen([(3, 12)], here) == {}
    assert pythons.version_of(tmp_path / "none") is None


def test_archives_are_compared_with_what_git_knows(release, tmp_path):
    archives, failed = release("archives"), release("running").Failed

    def built(packed, unpacked):
        wheel = tmp_path / "lightkv-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name in packed:
                archive.writestr(name, name)
        for name in unpacked:
            (tmp_path / "unpacked" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "unpacked" / name).write_text(name)
        known = frozenset({"lightkv/a.py", "lightkv/page.css", "tests/test_a.py", ".ci/run"})
        nothing = tmp_path / "none"
        return archives.Built(nothing, known, wheel, wheel, tmp_path / "unpacked", nothing, nothing)

    package = ["lightkv/a.py", "lightkv/page.css"]
    information = "lightkv-1.0.dist-info/METADATA"
    assert "3 files" in archives.check_wheel(built([*package, information], []))
    with pytest.raises(failed, match=r"missing in the wheel: lightkv/page.css"):
        archives.check_wheel(built([package[0], information], []))
    with pytest.raises(failed, match=r"must not be in the wheel: tests/test_a.py"):
        archives.check_wheel(built([*package, "tests/test_a.py"], []))
    with pytest.raises(failed, match=r"missing in the source archive: tests/test_a.py"):
        archives.check_sdist(built(package, [*package, "PKG-INFO"]))
    assert "4 files" in archives.check_sdist(built(package, [*package, "tests/test_a.py"]))
    with pytest.raises(failed, match=r"must not be in the source archive: junk"):
        archives.check_sdist(built(package, ["junk"]))


def test_a_failed_check_is_a_line_of_the_table(release):
    running = release("running")
    rows = running.Rows()
    rows.add("wheel", "built", "442 files")
    assert rows.ok
    rows.fail("metadata", "wheel", running.Failed("the metadata lacks Author\nmore"))
    assert not rows.ok
    last = running.table(rows.rows).splitlines()[-1]
    assert "FAILED: the metadata lacks Author" in last
    assert "more" not in last
