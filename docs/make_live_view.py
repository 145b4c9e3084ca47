"""Draw docs/live.svg: a moment of `scheduler.run(display=True)`, in a real run.

Run it by `make docs/live.svg` when the view changes; tests/test_readme.py compares their texts.
"""

from __future__ import annotations

import io
import re
import sys
import time
from concurrent.futures import Future
from pathlib import Path

from rich.console import Console

from dask_limits import PynisherPlugin, Retry, Scheduler

COLUMNS = 82
DEFAULT = Path(__file__).with_name("live.svg")

scheduler = Scheduler.with_processes(2)
limits = PynisherPlugin(memory_limit="300 MiB", walltime_limit=2)
retry = Retry(on=limits.MemoryLimitException, max_retries=1, memory_factor=2)
view = Console(record=True, width=COLUMNS, file=io.StringIO())


@scheduler.task(plugins=[limits, retry])
def fit(mib: int, seconds: float) -> int:
    model = b"x" * mib * 2**20
    time.sleep(seconds)
    return len(model)


@scheduler.on_start
def submit_all() -> None:
    fit.submit(10, 0.1)
    fit.submit(400, 0.1)  # goes over its memory limit, and runs again with twice as much
    fit.submit(20, 0.1)


@fit.on_result
def keep(future: Future[int], size: int) -> None:
    if future.attempts == 2:  # the others have ended
        fit.submit(10, 60)  # goes over its wall-time limit
        fit.submit(30, 60)
        fit.submit(30, 0.1)


@fit.on("pynisher-walltime-limit")
def draw_and_stop(error: Exception) -> None:
    if scheduler.running():
        view.print(scheduler)
        scheduler.stop()


def draw(path: Path) -> None:
    limits_only = {limits.TimeoutException: "continue", Exception: "raise"}
    scheduler.run(wait=False, on_exception=limits_only, on_cancelled="continue")
    svg = view.export_svg(title="scheduler.run(display=True)", unique_id="live")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # nothing from other servers
    svg = re.sub(r"Task-fit-\w{8}", "Task-fit-q8WJ3xTe", svg)  # which is random
    path.write_text(svg)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT)
