"""Take the README's picture of a report: its top, in the light theme.

python docs/make_report_picture.py vitalfew-demo/report.html docs/_static/report.png
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH, TALLEST = 1000, 1200
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def take(report: Path, picture: Path) -> None:
    """Photograph the top of a report with the installed Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("chromium is not installed\nhint: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(
            viewport={"width": WIDTH, "height": TALLEST}, color_scheme="light"
        )
        page.goto(report.resolve().as_uri())
        table = page.locator("#chosen").bounding_box()
        bottom = TALLEST if table is None else table["y"] + table["height"] + 24
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": min(bottom, TALLEST)}
        page.screenshot(path=picture, clip=clip)
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: make_report_picture.py REPORT.html OUT.png")
    take(Path(sys.argv[1]), Path(sys.argv[2]))
