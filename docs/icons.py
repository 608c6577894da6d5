"""The icons for home screens, drawn from static/eel.svg by the Chromium of the tests.

    pip install -e '.[test]' && python docs/icons.py
"""

import asyncio
import pathlib
import sys

from playwright.async_api import async_playwright

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests")]
import chromium                                  # noqa: E402

PAPER = "#f6f3ec"
ICONS = {"icon-180.png": (180, 0.78, PAPER), "icon-192.png": (192, 0.96, "transparent"),      # (pixels, share, ground)
         "icon-512.png": (512, 0.96, "transparent"), "icon-mask.png": (512, 0.62, PAPER)}


async def main():
    eel = (ROOT / "static/eel.svg").read_text()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(args=chromium.FLAGS, **chromium.find())
        for name, (pixels, share, ground) in ICONS.items():
            page = await browser.new_page(viewport={"width": pixels, "height": pixels})
            await page.set_content(
                f"<style>body {{ margin: 0; height: 100vh; display: grid; place-items: center; background: {ground} }}"
                f"svg {{ width: {share * pixels}px; height: {share * pixels}px }}</style>{eel}")
            await page.screenshot(path=ROOT / "static" / name, omit_background=True)
            await page.close()
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
