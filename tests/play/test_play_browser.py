"""The playground in a real browser: it compares, its slider runs it anew, errors stand on the page."""

from __future__ import annotations

import threading
import time

import pytest
from pages import chromium, needs_browser

uvicorn = pytest.importorskip(
    "uvicorn", reason="needs the extra `play`: pip install 'lightkv[play]'"
)

pytestmark = needs_browser
PATIENCE = 60


@pytest.fixture(scope="module")
def address(app):
    """Where the playground answers, run by uvicorn in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join(PATIENCE)


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def test_from_a_scene_to_figures_and_from_mistakes_to_a_line(address, tmp_path):
    with chromium(tmp_path / "profile", 1300, 1000) as driver:
        driver.get(address)
        body = driver.find_element("tag name", "body")

        def ran(count):
            wait_for(lambda: body.get_attribute("data-run") == str(count))

        def texts(css):
            return [each.text for each in driver.find_elements("css selector", css)]

        def set_value(name, value):
            driver.execute_script(
                "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
                "e.dispatchEvent(new Event('input')); e.dispatchEvent(new Event('change'));",
                name,
                value,
            )

        def press_if_slow():
            """Settings run by themselves only where that is quick, which a busy machine is not."""
            if "press Compare" in driver.find_element("id", "state").text:
                driver.find_element("id", "go").click()

        def complains():
            wait_for(lambda: driver.find_element("id", "error").is_displayed())
            return driver.find_element("id", "error").text

        # A scene is there, with its questions; one click answers.
        wait_for(lambda: body.get_attribute("data-ready") == "1")
        assert "digit scene 0, 96 × 96 pixels" in texts("#name")
        assert (
            driver.find_element("id", "question").get_property("value")
            == texts("#questions button")[0]
        )
        driver.find_element("id", "go").click()
        ran(1)
        assert texts("#figures thead th") == ["uncompressed", "lightkv-lean", "fastv"]
        answers = texts("td.answer")
        assert len(answers) == 3
        assert all(text.endswith("right") or "right is: " in text for text in answers)
        assert len(driver.find_elements("css selector", "#results svg path")) == 3

        # What was merged, in the page of `lightkv show`, as high as it is.
        frame = driver.find_element("id", "merged")
        driver.switch_to.frame(frame)
        assert len(driver.find_elements("tag name", "canvas")) == 2 + 6
        driver.switch_to.default_content()
        assert frame.size["height"] > 500

        # The slider runs it anew; a strategy that cannot reach the share says so in its column.
        set_value("retention", "0.08")
        press_if_slow()
        ran(2)
        assert texts("#share") == ["0.08"]
        assert [text.split(":")[0] for text in texts("td.failed")] == ["retention = 0.08"]
        assert len(texts("td.answer")) == 2

        # A text that calls itself a picture: one line, and the figures before it are marked as old.
        note = tmp_path / "note.png"
        note.write_text("no picture")
        driver.find_element("id", "file").send_keys(str(note))
        wait_for(lambda: "note.png" in texts("#name")[0])
        press_if_slow()
        assert "this is not a picture that can be read" in complains()
        assert driver.find_element("id", "results").get_attribute("class") == "old"
        set_value("question", "")
        driver.find_element("id", "scene").click()
        wait_for(lambda: driver.find_element("id", "question").get_property("value"))
        driver.find_element("id", "go").click()
        ran(3)
        assert not driver.find_element("id", "error").is_displayed()
        # A refusal is an answer with a status, of which the browser makes a note.
        said = [entry["message"] for entry in driver.get_log("browser")]
        assert [each for each in said if "422" not in each] == []
