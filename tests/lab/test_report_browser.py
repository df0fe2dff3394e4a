"""The report in a real browser: plots are drawn, the table works, and the console is quiet."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from pages import chromium, needs_browser
from synthetic_study import AXES, KINDS, RETENTIONS, UNFINISHED, study

from lightkv.lab.reporting import build_study
from lightkv.lab.reporting.page import write_page

CELLS = 73

pytestmark = needs_browser


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile"), 1400, 1000) as made:
        yield made


@pytest.fixture(scope="module")
def made():
    odd = "</script> & <b>"
    return study(names=lambda text: text + odd if text.startswith("list") else text)


@pytest.fixture(scope="module")
def path(made, tmp_path_factory):
    cells, outcomes, meta = made
    target = tmp_path_factory.mktemp("page") / "report.html"
    write_page(build_study(cells, outcomes.__getitem__, meta, resamples=500), target)
    return target


@pytest.fixture
def opened(driver, path):
    """The driver on the page, which must have come up by itself and stay quiet."""
    driver.get(path.as_uri())
    assert driver.find_element("tag name", "body").get_attribute("data-ready") == "1"
    yield driver
    assert [entry for entry in driver.get_log("browser") if entry["level"] != "INFO"] == []


def shown(driver):
    """Numbers of the rows of the table that can be seen, in order."""
    script = (
        "return [...document.querySelectorAll('tr.cell')].filter((row) => row.offsetParent)"
        ".map((row) => row.querySelector('.open').textContent.trim().split(' ')[0])"
    )
    return [int(number) for number in driver.execute_script(script)]


def choose(driver, query, value):
    from selenium.webdriver.support.ui import Select

    Select(driver.find_element("css selector", query)).select_by_visible_text(value)


def column(driver, text):
    [head] = [h for h in driver.find_elements("css selector", "thead th") if h.text.strip() == text]
    return head


def wait(driver, holds):
    """Until something holds; events of the browser come a moment later."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 10, poll_frequency=0.05).until(holds)


def marks(driver, plot, query):
    return driver.find_elements("css selector", f"#plot-{plot} svg {query}")


def test_every_plot_has_its_marks(opened):
    labels = len(AXES["matcher"])
    for plot in ("retention", "flops"):
        assert len(marks(opened, plot, ".scatterlayer .trace")) >= 24 + 2 * labels + 1
        assert len(marks(opened, plot, ".points path")) >= CELLS - 1 - len(UNFINISHED)
        assert "uncompressed" in opened.find_element("id", f"plot-{plot}").text
        assert "Pareto front" in opened.find_element("id", f"plot-{plot}").text
    effects = (len(RETENTIONS) + 1) * sum(len(each) - 1 for each in AXES.values())
    assert len(marks(opened, "effects", ".points path")) == effects
    assert len(marks(opened, "tokens", ".scatterlayer .js-line")) == 1 + 2 * len(RETENTIONS)
    rows = 24 - len(UNFINISHED)  # of the smallest retention
    assert len(marks(opened, "kinds", ".heatmap-label")) == rows * len(KINDS)
    assert "list</script> & <b>" in opened.find_element("id", "plot-kinds").text
    rows = opened.find_element("id", "heat-rows").text
    assert rows == "Rows are windows / matcher / guidance / mean."
    # Nothing is wider than the window.
    wide = "return document.documentElement.scrollWidth <= window.innerWidth"
    assert opened.execute_script(wide)
    loaded = (
        "return performance.getEntriesByType('resource').filter((e) => !e.name.startsWith('data:'))"
    )
    assert opened.execute_script(loaded) == []


def test_plots_follow_their_controls(opened):
    choose(opened, "#view", "each setting")
    names = opened.find_elements("css selector", "#plot-retention .legendtext")
    few = len(marks(opened, "retention", ".js-fill"))
    assert (
        len(names) == few + 1 > 1
    )  # those on the front have a band and a name, and so has the front
    opened.find_element("id", "bands").click()
    assert len(marks(opened, "retention", ".js-fill")) == 24 > few
    choose(opened, "#heat-retention", "retention 0.55")
    choose(opened, "#heat-measure", "score")
    assert len(marks(opened, "kinds", ".heatmap-label")) == 25 * len(KINDS)
    assert "vanilla" in opened.find_element("id", "plot-kinds").text


def test_filters(opened, made):
    cells, *_ = made
    assert shown(opened) == list(range(1, CELLS + 1))
    search = opened.find_element("id", "search")
    search.send_keys("Random 0.35")
    expected = [c.position + 1 for c in cells if "random" in c.name and "0.35" in c.name]
    assert shown(opened) == expected
    assert opened.find_element("id", "count").text == f"{len(expected)} of {CELLS} cells"
    choose(opened, "#filters label:nth-of-type(2) select", "off")
    assert shown(opened) == [
        c.position + 1
        for c in cells
        if c.position + 1 in expected and c.factors["windows"] == "off"
    ]
    opened.find_element("id", "clear").click()
    assert len(shown(opened)) == CELLS
    search.send_keys("gave NaN")
    assert shown(opened) == [c.position + 1 for c in cells if c.status == "failed"]


def test_sorting(opened, made):
    cells, *_ = made
    head = column(opened, "FLOPs")
    head.find_element("tag name", "button").click()
    done = [cell for cell in cells if cell.flops is not None]
    order = [cell.position + 1 for cell in sorted(done, key=lambda cell: cell.flops)]
    assert head.get_attribute("aria-sort") == "ascending"
    assert shown(opened)[: len(done)] == order
    assert len(shown(opened)) == CELLS  # those without a figure come last
    head.find_element("tag name", "button").click()
    assert shown(opened)[: len(done)] == order[::-1]
    column(opened, "matcher").find_element("tag name", "button").click()
    assert cells[shown(opened)[0] - 1].factors["matcher"] == "feature-divergence"


@pytest.mark.parametrize("clipboard", [True, False], ids=["clipboard", "text area"])
def test_a_spec_can_be_copied(opened, made, clipboard):
    from selenium.webdriver.common.keys import Keys

    cells, *_ = made
    if not clipboard:  # as in a page that may not use it
        refuse = "() => Promise.reject(new Error('no'))"
        opened.execute_script(
            f"Object.defineProperty(navigator, 'clipboard', {{ value: {{ writeText: {refuse} }} }})"
        )
    row = opened.find_elements("css selector", "tr.cell")[3]
    row.find_elements("tag name", "td")[1].click()
    detail = opened.find_element("id", "spec-3")
    assert detail.is_displayed()
    assert row.find_element("css selector", ".open").get_attribute("aria-expanded") == "true"
    assert yaml.safe_load(detail.find_element("tag name", "pre").text) == cells[3].spec
    buttons = detail.find_elements("css selector", "button.copy")
    for button, expected in zip(buttons, (cells[3].spec, cells[3].spec["pipeline"]), strict=True):
        button.click()
        search = opened.find_element("id", "search")
        assert detail.find_element("css selector", ".copied").text == "copied"
        # What was copied, without its line ends: the field has one line.
        opened.execute_script(
            "window.pasted = ''; arguments[0].addEventListener('paste', (event) => {"
            " window.pasted = event.clipboardData.getData('text'); event.preventDefault(); })",
            search,
        )
        search.send_keys(Keys.CONTROL, "v")
        assert yaml.safe_load(opened.execute_script("return window.pasted")) == expected
    row.find_element("css selector", ".open").send_keys(Keys.ENTER)
    assert not detail.is_displayed()


def test_two_models_one_of_which_has_only_begun(driver, tmp_path):
    cells, outcomes, meta = study(8, (0.5, 0.2), {"mean": AXES["mean"]}, unfinished=())
    others = [
        replace(
            cell,
            id=f"other {cell.id}",
            position=cell.position + len(cells),
            name=f"other {cell.name}",
            factors={**cell.factors, "model": "other"},
            spec={**cell.spec, "model": "other"},
            status="done" if cell.position == 0 else "pending",
        )
        for cell in cells
    ]
    outcomes |= {f"other {key}": each for key, each in outcomes.items()}
    path = tmp_path / "two.html"
    write_page(build_study([*cells, *others], outcomes.__getitem__, meta, resamples=100), path)
    driver.get(path.as_uri())
    # Plotly may draw after the page has come up.
    wait(driver, lambda driver: len(marks(driver, "effects", ".points path")) == 3)
    choose(driver, "#group", "other · scenes")
    wait(driver, lambda driver: not driver.find_element("id", "effects").is_displayed())
    assert not driver.find_element("id", "kinds").is_displayed()
    wait(driver, lambda driver: len(marks(driver, "tokens", ".scatterlayer .js-line")) == 1)
    lists = driver.find_elements("css selector", "#summary ul")
    assert [each.is_displayed() for each in lists] == [False, True]
    choose(driver, "#group", "demo · scenes")
    wait(driver, lambda driver: driver.find_element("id", "kinds").is_displayed())
    assert [entry for entry in driver.get_log("browser") if entry["level"] != "INFO"] == []


def test_dark_and_narrow(opened):
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        text = "return getComputedStyle(document.querySelector('#plot-tokens .xtitle')).fill"
        wait(opened, lambda driver: driver.execute_script(text) == "rgb(231, 234, 240)")
        size = {"width": 420, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        wide = "return document.documentElement.scrollWidth <= 420"
        wait(opened, lambda driver: driver.execute_script(wide))
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
