"""A real browser without a window, for tests of what people see: Chromium, of Debian's packages."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from processes import until
from required import need

INSTALL = Path(__file__).parents[2] / "ci" / "chromium"
_OPTIONS = (
    "headless",
    "no-sandbox",  # root has none
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
)
_DEEP = """
function deep(root, selector, found) {
    found.push(...root.querySelectorAll(selector));
    for (const one of root.querySelectorAll("*"))
        if (one.shadowRoot) deep(one.shadowRoot, selector, found);
    return found;
}
"""
"""Bokeh puts what it shows into shadow roots, into which no selector looks."""


class Page:
    """What the browser shows."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str, width: int = 1200, height: int = 1400) -> None:
        self.driver.set_window_size(width, height)
        self.driver.get(url)

    def all(self, selector: str) -> list[Any]:
        """The elements that a selector of CSS finds, in shadow roots too."""
        script = f"{_DEEP} return deep(document, arguments[0], []);"
        return self.driver.execute_script(script, selector)

    def texts(self, selector: str) -> list[str]:
        """The texts of these elements, as of one moment."""
        script = f"{_DEEP} return deep(document, arguments[0], []).map(one => one.textContent);"
        return self.driver.execute_script(script, selector)

    def widths(self, selector: str) -> list[float]:
        script = f"{_DEEP} return deep(document, arguments[0], []).map(one => one.offsetWidth);"
        return self.driver.execute_script(script, selector)

    def script(self, code: str) -> Any:
        return self.driver.execute_script(code)

    def wait_for(self, text: str, selector: str = "div") -> None:
        """Wait until one of these elements has this text."""
        until(
            lambda: any(text in one for one in self.texts(selector)),
            instead=lambda: self.texts(selector),
        )

    def expect_clean(self) -> None:
        """Nothing has failed in the page, and nothing was asked for from another server."""
        logged = self.driver.get_log("browser")
        assert not [one["message"] for one in logged if one["level"] == "SEVERE"]
        messages = (json.loads(one["message"]) for one in self.driver.get_log("performance"))
        asked = [
            urlsplit(one["message"]["params"]["request"]["url"])
            for one in messages
            if one["message"]["method"] == "Network.requestWillBeSent"
        ]
        elsewhere = [
            url for url in asked if url.scheme in ("http", "https") and url.hostname != "127.0.0.1"
        ]
        assert not elsewhere


def install() -> None:
    """Have a Chromium, or say why that cannot be."""
    done = subprocess.run([INSTALL], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    need(done.returncode == 0, f"Chromium: {done.stderr}")


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A browser that has this folder alone."""
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for option in (*_OPTIONS, f"user-data-dir={profile}"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Without the path, selenium would look for a driver in the network.
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    try:
        yield Page(driver)
    finally:
        driver.quit()
