"""A picture of a report, e.g. for the README.

screenshot.py REPORT.html OUT.png [--dark] [--section ID]

--section takes an id of the page (results, figure-all, coverage, conversations, ...); without it
the whole page is taken. Needs Chromium.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.chromium import Chromium, file_url, find_chromium

MARGIN = 16


def main() -> int:
    parser = argparse.ArgumentParser(description="A PNG of a report.")
    parser.add_argument("report", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dark", action="store_true", help="as on a dark desktop")
    parser.add_argument("--section", help="id of the part to take")
    parser.add_argument("--fragment", default="", help="e.g. 'episode=3f2a91' or 'variant=anger'")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=900, help="of the window")
    parser.add_argument("--crop", type=int, help="keep at most this many pixels of height")
    arguments = parser.parse_args()
    executable = find_chromium()
    if executable is None:
        print("no Chromium found", file=sys.stderr)
        return 1
    with Chromium(executable) as browser:
        browser.command(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": "prefers-color-scheme", "value": "dark" if arguments.dark else "light"}
            ],
        )
        browser.command(
            "Emulation.setDeviceMetricsOverride",
            width=arguments.width,
            height=arguments.height,
            deviceScaleFactor=1,
            mobile=False,
        )
        browser.open(file_url(arguments.report, arguments.fragment))
        browser.wait_for("document.querySelector('#pane').childElementCount > 0")
        selector = f"#{arguments.section}" if arguments.section else "html"
        box = browser.evaluate(
            f"(() => {{ const box = document.querySelector('{selector}').getBoundingClientRect();"
            " return {x: box.x + scrollX, y: box.y + scrollY, width: box.width,"
            " height: box.height}; })()"
        )
        if arguments.section:
            box = {
                "x": max(0, box["x"] - MARGIN),
                "y": max(0, box["y"] - MARGIN),
                "width": box["width"] + 2 * MARGIN,
                "height": box["height"] + 2 * MARGIN,
            }
        if arguments.crop:
            box["height"] = min(box["height"], arguments.crop)
        arguments.out.write_bytes(browser.screenshot(box))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
