"""A screenshot of a page that lightkv wrote or serves, with headless Chromium, for the documentation.

    python benchmarks/screenshot.py report.html --out docs/images/report.png [--width 1400]
        [--until cells] [--rows 8] [--limit 400] [--dark]
    lightkv play --port 7860 &
    python benchmarks/screenshot.py http://127.0.0.1:7860/ --press go --wait run --width 1300
        --out docs/images/playground.png

Needs chromium, chromedriver and selenium. `--press ID` presses a button when the page is ready, and
`--wait NAME` waits until the body has `data-NAME`. `--until ID` ends the picture after the element with
that id (the whole page by default), `--rows` hides all but the first rows of the table. The picture is
stored with the most colours that keep it below `--limit` KB.
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from browser import BROWSER, DRIVER, chromium

COLORS = (256, 192, 128, 96, 64, 48, 32)
CUT = """
const rows = [...document.querySelectorAll("tr.cell")];
if (arguments[1] !== null) rows.slice(arguments[1]).forEach((row) => { row.hidden = true; });
const end = arguments[0] ? document.getElementById(arguments[0]) : document.documentElement;
return end.getBoundingClientRect().bottom + window.scrollY + (arguments[0] ? 24 : 0);
"""


def main() -> None:
    options = parse(sys.argv[1:])
    picture = shoot(options)
    size = save(picture, options.out, 1024 * options.limit)
    print(f"wrote {options.out}: {size // 1024} KB")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", help="a file, or an address")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=1400)
    parser.add_argument("--until", help="id of the last element in the picture")
    parser.add_argument("--rows", type=int, help="of the table")
    parser.add_argument("--press", help="id of a button")
    parser.add_argument("--wait", help="for data-NAME of the body")
    parser.add_argument("--limit", type=int, default=400, help="KB")
    parser.add_argument("--dark", action="store_true")
    return parser.parse_args(arguments)


def shoot(options: argparse.Namespace) -> Any:
    """The page as a Pillow image; `options` as `parse` gives them."""
    from PIL import Image
    from selenium.webdriver.support.ui import WebDriverWait

    if BROWSER is None or DRIVER is None:
        sys.exit("chromium and chromedriver are not on the path")
    with (
        tempfile.TemporaryDirectory() as profile,
        chromium(Path(profile), options.width, height=1000) as driver,
    ):
        if options.dark:
            feature = {"name": "prefers-color-scheme", "value": "dark"}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        served = options.page.startswith("http://")
        driver.get(options.page if served else Path(options.page).resolve().as_uri())
        ready = "return document.body.dataset.ready === '1'"
        WebDriverWait(driver, 30).until(lambda made: made.execute_script(ready))
        if options.press:
            driver.find_element("id", options.press).click()
        if options.wait:
            there = "return document.body.dataset[arguments[0]] !== undefined"
            WebDriverWait(driver, 120).until(lambda made: made.execute_script(there, options.wait))
        height = int(driver.execute_script(CUT, options.until, options.rows))
        shown = {"x": 0, "y": 0, "width": options.width, "height": height, "scale": 1}
        asked = {"captureBeyondViewport": True, "clip": shown}
        found = driver.execute_cdp_cmd("Page.captureScreenshot", asked)
    return Image.open(io.BytesIO(base64.b64decode(found["data"]))).convert("RGB")


def save(picture: Any, path: Path, limit: int) -> int:
    """Write a PNG of at most `limit` bytes; its size."""
    from PIL import Image

    for colors in COLORS:
        buffer = io.BytesIO()
        reduced = picture.quantize(colors, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        reduced.save(buffer, format="PNG", optimize=True)
        if buffer.tell() <= limit:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return buffer.tell()


if __name__ == "__main__":
    main()
