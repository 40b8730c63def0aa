"""A picture of a page, taken by a browser without a window."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from sw.files import write_output

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SCREENSHOT_SIZE = (1280, 1690)
SCREENSHOT_TIMEOUT_S = 120


class ReportError(RuntimeError):
    """The report cannot be made as asked; the message says what to do."""


def screenshot(html: Path, target: Path) -> None:
    """A picture of the top of a page, by a Chromium on the PATH.

    Raises
    ------
    ReportError
        There is no browser, or it fails.
    """
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise ReportError(
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
            raise ReportError(
                f"{browser} made no picture within {SCREENSHOT_TIMEOUT_S} s; the page is in {html}"
            ) from None
        except OSError as error:
            raise ReportError(
                f"{browser} cannot be started: {error.strerror}; the page is in {html}"
            ) from error
        if not picture.exists():
            said = done.stderr.strip().splitlines()[-1:] or ["nothing"]
            raise ReportError(
                f"{browser} made no picture and said {said[0]!r}; the page is in {html}"
            )
        write_output(target, picture.read_bytes())
