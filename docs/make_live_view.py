"""Draw docs/live.svg: a moment of `scheduler.run(display=True)`, in a real run.

Run it by `make docs/live.svg` when the view changes; tests/test_readme.py compares their texts. So
figures that differ from run to run are rounded.
"""

from __future__ import annotations

import io
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.segment import Segment, Segments

from dask_limits import Display, PynisherPlugin, Retry, Scheduler
from dask_limits.display.run_view import EndedRow, RunningRow, RunView
from dask_limits.display.screen import draw

COLUMNS, LINES = 88, 24
DEFAULT = Path(__file__).with_name("live.svg")
MIB = 2**20

scheduler = Scheduler.with_processes(4)
limits = PynisherPlugin(memory="300 MiB", wall_time=8, reserve=False)
retry = Retry(on=limits.MemoryLimitException, max_retries=1, memory_factor=2)
view = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)


@scheduler.task(plugins=[limits, retry])
def fit(mib: int, *, seconds: float) -> int:
    model = b"x" * mib * MIB
    time.sleep(seconds)
    return len(model)


@scheduler.on_start
def submit_all() -> None:
    fit.submit(20, seconds=60)  # goes over its wall-time limit
    fit.submit(400, seconds=0.1)  # goes over its memory limit, and runs again with twice as much
    fit.submit("much", seconds=1)  # raises
    for mib in (10, 30, 20):
        fit.submit(mib, seconds=0.1)
    for at, mib in (4, 250), (5, 280), (7, 140), (7.1, 60), (7.1, 90):
        scheduler.call_later(at, lambda mib=mib: fit.submit(mib, seconds=60))


@fit.on("pynisher-walltime-limit")
def draw_and_stop(*_: object) -> None:
    run = scheduler._run
    if run is None or run.watch is None or not run.running():
        return
    moment = rounded(run.watch.moment(LINES))
    if [row.memory.used for row in moment.running] != [mib * MIB for mib in (250, 280, 140, 60)]:
        scheduler.call_later(0.1, draw_and_stop)  # some have only begun
        return
    for line in draw(moment, COLUMNS, LINES):
        view.print(Segments([*line, Segment.line()]), end="")
    scheduler.stop()


def rounded(moment: RunView) -> RunView:
    return replace(
        moment,
        elapsed=8.7,
        rate=1.1,
        time_left=12.0,
        running=tuple(map(rounded_row, moment.running, (4.6, 3.6, 1.6, 0.6))),
        failures=tuple(map(rounded_failure, sorted(moment.failures, key=lambda it: it.ending))),
    )


def rounded_row(row: RunningRow, age: float) -> RunningRow:
    used = round((row.memory.used or 0) / MIB, -1) * MIB
    time, memory = row.wall_time._replace(used=age), row.memory._replace(used=used)
    return replace(row, age=age, wall_time=time, memory=memory)


def rounded_failure(row: EndedRow) -> EndedRow:
    at = 3 if row.ending == "raised" else 11
    cause = re.sub(r"it took [\d.]+ s", "it took 8.01 s", row.cause)
    return replace(row, at=time.mktime((2026, 1, 2, 10, 41, at, 0, 0, -1)), cause=cause)


def make(path: Path) -> None:
    display = Display(total=20)
    scheduler.run(wait=False, on_exception="continue", on_cancelled="continue", display=display)
    svg = view.export_svg(title="scheduler.run(display=True)", unique_id="live")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # nothing from other servers
    path.write_text(svg)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT)
