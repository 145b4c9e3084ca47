"""Make docs/limits-page.png: the page "Limits" of Dask's dashboard, with calls of a real cluster.

Run it by `make docs/limits-page.png` when the page changes. It needs Chromium and its driver, which
`ci/chromium` installs. A second argument is the width of the window, 1200 if there is none.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster
from selenium import webdriver

from dask_limits import LimitsWorkerPlugin, annotate

FILE = Path(__file__).with_name("limits-page.png")
WIDTH, HEIGHT = 1200, 1110
MIB = 2**20
SWITCHES = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "hide-scrollbars",
)


def fit(mib: int, seconds: float) -> int:
    model = b"x" * mib * MIB
    time.sleep(seconds)
    return len(model)


def evaluate(seconds: float) -> int:
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        n += 1
    return n


def submit_all(client: Client) -> list[Any]:
    """Calls that end in several ways, and those that run while the picture is taken."""
    options = {"pure": False}
    with annotate(memory="500 MiB", wall_time="2 m"):
        done = [client.submit(fit, mib, 0.1, **options) for mib in range(20, 480, 15)]
        done += [client.submit(fit, 700, 0.1, **options), client.submit(fit, "much", 1, **options)]
    with annotate(cpu_time=2, wall_time=30):
        done += [client.submit(evaluate, n / 10, **options) for n in range(1, 10)]
        done.append(client.submit(evaluate, 60, **options))
    for future in done:
        future.exception()
    with annotate(memory="500 MiB", wall_time="2 m"):
        running = [client.submit(fit, mib, 100, **options) for mib in (90, 470, 380, 240, 150, 60)]
    with annotate(wall_time=20):
        running += [client.submit(time.sleep, 19, **options) for _ in range(4)]
    return [*done, *running]


def take(url: str, width: int, file: Path) -> None:
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for switch in (*SWITCHES, f"user-data-dir={profile}", f"window-size={width},{HEIGHT}"):
            options.add_argument(f"--{switch}")
        driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
        try:
            driver.get(url)
            time.sleep(6)  # the page looks once a second, and figures of running calls come then
            driver.save_screenshot(str(file))
        finally:
            driver.quit()


if __name__ == "__main__":
    given = sys.argv[1:]
    picture, width = Path(given[0]) if given else FILE, int(given[1]) if given[1:] else WIDTH
    with (
        LocalCluster(
            n_workers=4,
            threads_per_worker=2,
            memory_limit="1.5 GiB",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(LimitsWorkerPlugin())
        futures = submit_all(client)
        time.sleep(4)
        take(client.dashboard_link.replace("/status", "/limits"), width, picture)
        client.cancel(futures, force=True)
