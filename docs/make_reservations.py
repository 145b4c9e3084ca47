"""Draw docs/reservations.svg: when calls start whose memory limits do not fit together.

Run it by `make docs/reservations.svg`. The calls are real, and sleep; tests/test_readme.py compares
the texts, and in which order they start.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from dask_limits import LimitedExecutor, Limits, Scheduler, limit
from dask_limits.exceptions import LimitRefusedError

DEFAULT = Path(__file__).with_name("reservations.svg")
CALLS = {"A": (0.6, 1.5), "B": (0.6, 1.5), "C": (0.3, 1.0), "D": (0.3, 1.5), "E": (0.3, 1.0)}
"""In the order of their submission: the share of the memory that they reserve, and seconds."""
LEFT, SECOND, ROW, FULL = 250, 90, 34, 40
"""Pixels: of the names, of a second, of a row, and of a bar for all of the memory."""


def nap(seconds: float) -> tuple[float, float]:
    start = time.monotonic()
    time.sleep(seconds)
    return start, time.monotonic()


def memory_here() -> float:
    """What all calls may reserve together, in bytes."""
    try:
        Scheduler.with_processes(1).check_limits(Limits(memory=2**60))
    except LimitRefusedError as error:
        return error.most
    raise AssertionError("this machine has an exbibyte of memory")


def run() -> dict[str, tuple[float, float]]:
    """Run the calls; when each started and ended, in seconds since they were submitted."""
    memory = memory_here()
    with LimitedExecutor(len(CALLS)) as executor:
        list(executor.map(nap, [0.1] * len(CALLS)))  # each process is there
        submitted = time.monotonic()
        futures = {
            name: executor.submit(limit(nap, memory=int(share * memory)), seconds)
            for name, (share, seconds) in CALLS.items()
        }
        times = {name: future.result() for name, future in futures.items()}
    return {name: (start - submitted, end - submitted) for name, (start, end) in times.items()}


def picture(times: dict[str, tuple[float, float]]) -> str:
    width = LEFT + SECOND * (max(end for _, end in times.values()) + 0.2)
    height = ROW * (len(times) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}"'
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{width:.0f}" height="{height}" fill="#ffffff"/>',
    ]
    for n, (name, (start, end)) in enumerate(times.items()):
        share, _ = CALLS[name]
        y, bar = ROW * n + ROW / 2 + 6, FULL * share
        x = LEFT + SECOND * start
        parts += [
            f'<text x="8" y="{y + 4:.0f}" fill="#222222">{name}: {share:.0%} of the memory</text>',
            f'<line x1="{LEFT}" x2="{x:.0f}" y1="{y:.0f}" y2="{y:.0f}" stroke="#999999"'
            ' stroke-dasharray="3 3"/>',
            f'<rect x="{x:.0f}" y="{y - bar / 2:.0f}" width="{SECOND * (end - start):.0f}"'
            f' height="{bar:.0f}" fill="#3f6fb5"/>',
        ]
    for second in range(int(max(end for _, end in times.values())) + 1):
        x = LEFT + SECOND * second
        parts.append(f'<text x="{x}" y="{height - 6}" fill="#222222">{second} s</text>')
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    path.write_text(picture(run()))
