"""Tests of the report page in a real browser: the page is drawn, and its buttons work.

``.ci/run`` installs a browser.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sw.cli.report import main
from sw.network import netfile
from sw.reporting.screenshot import BROWSERS, SCREENSHOT_SIZE
from tests.networks import random_input, random_network

BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="needs Chromium on the PATH (Debian package chromium)"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the path of a report page on a small network, and that of its screenshot."""
    folder = tmp_path_factory.mktemp("page")
    network = random_network(18)
    netfile.save(folder / "net.spikefold", network)
    images = random_input(network, np.random.default_rng(3), 3)
    np.savez(folder / "in.npz", images=images, labels=np.zeros(3, np.int64))
    html, picture = folder / "page.html", folder / "page.png"
    options = ["--input", str(folder / "in.npz"), "-o", str(html), "--screenshot", str(picture)]
    assert main([str(folder / "net.spikefold"), *options]) == 0
    return html, picture


def test_the_page_is_drawn(page: tuple[Path, Path]) -> None:
    with Image.open(page[1]) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape == SCREENSHOT_SIZE[::-1]
    background = np.bincount(pixels.ravel()).argmax()
    drawn = pixels != background
    assert 0.02 < drawn.mean() < 0.98
    for quarter in np.array_split(drawn, 4):
        assert quarter.any(), "text and charts fill the page from top to bottom"


def dom(html: Path, profile: Path) -> str:
    """Return the HTML of a page after a browser has run its scripts, which must log no message.

    ``profile`` is the folder for the browser's own files.
    """
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={profile}", "--dump-dom", html.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def test_a_click_shows_another_sample(page: tuple[Path, Path], tmp_path: Path) -> None:
    clicked = tmp_path / "clicked.html"
    click = """<script>document.querySelector('[data-show="1"]').click()</script>"""
    clicked.write_text(page[0].read_text() + click)
    text = dom(clicked, tmp_path / "profile")
    parts = re.findall(r"<[^>]* data-sample=[^>]*>", text)
    assert len({re.findall('data-sample="([^"]*)"', part)[0] for part in parts}) == 3
    for part in parts:
        assert (" hidden" in part) == ('data-sample="1"' not in part), part
    pressed = re.findall(r'<button[^>]*aria-pressed="true"[^>]*>', text)
    assert pressed and all('data-show="1"' in button for button in pressed)
