"""Take a picture of an HTML page with a headless browser."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from sw.files import write_output

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
"""Names of the browsers that are looked for on the PATH, in this order."""
SCREENSHOT_SIZE = (1280, 1690)
"""Width and height of the picture in pixels."""
SCREENSHOT_TIMEOUT_S = 120
"""Longest time in seconds that a browser may take."""


class ScreenshotError(RuntimeError):
    """Raised if no picture of a page can be taken; the message gives the reason and the page's
    path.
    """


def screenshot(html: Path, target: Path) -> None:
    """Take a picture of the top of a page with one of :data:`BROWSERS` on the PATH.

    Parameters
    ----------
    html : path of the page.
    target : path of the PNG file to write, of :data:`SCREENSHOT_SIZE` pixels.

    Raises
    ------
    ScreenshotError
        There is no browser, or it fails or takes too long.
    sw.files.OutputError
        ``target`` cannot be written.
    """
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise ScreenshotError(
            f"--screenshot needs one of {', '.join(BROWSERS)} on the PATH (Debian package "
            f"chromium); the page is in {html}"
        )
    width, height = SCREENSHOT_SIZE
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "page.png"
        command = [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
            f"--window-size={width},{height}",
            f"--screenshot={picture}",
            html.resolve().as_uri(),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SCREENSHOT_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise ScreenshotError(
                f"{browser} made no picture within {SCREENSHOT_TIMEOUT_S} s; the page is in {html}"
            ) from None
        except OSError as error:
            raise ScreenshotError(
                f"{browser} cannot be started: {error.strerror}; the page is in {html}"
            ) from error
        if not picture.exists():
            said = done.stderr.strip().splitlines()[-1:] or ["nothing"]
            raise ScreenshotError(
                f"{browser} made no picture and said {said[0]!r}; the page is in {html}"
            )
        write_output(target, picture.read_bytes())
