"""A report as a picture."""

from __future__ import annotations

import time
from itertools import pairwise
from math import nan

import pytest

from dask_limits import Limits, Usage
from dask_limits.limits.endings import Ending
from dask_limits.report import Recorder
from dask_limits.report.endings import CANCELLED, RETURNED, End
from dask_limits.report.lanes import Bar, lanes_of

LIMITS = Limits(memory="1 GiB", wall_time=60)


@pytest.fixture(scope="module", autouse=True)
def fonts_are_open() -> None:
    """Matplotlib keeps the files of its fonts open from the first picture on."""
    Recorder().report().plot()._repr_png_()


def test_a_report_is_drawn_and_shows_itself_in_a_notebook() -> None:
    """Names in it are text, whatever Matplotlib would take them for."""
    recorder, now = Recorder(), time.time()
    recorder.worker_added("tcp://1", 2, 2**30)
    for n in range(50):
        usage = Usage(1.0 + n % 3, 0.5, (n + 1) * 2**24, started=now + n // 4)
        end = End(Ending.BREACH, "memory") if n % 7 == 0 else RETURNED
        about = f"w${n % 2}_{{", "", now, now + 60, 1
        recorder.add_row("fit$^", "k", end, usage, LIMITS, *about)
    recorder.add_row("load", "k", CANCELLED, None, Limits(), "", "", now, now + 9, 1)
    recorder.worker_removed("tcp://1")
    figure = recorder.report().plot()
    assert figure._repr_png_().startswith(b"\x89PNG")
    titles = [axes.get_title("left") for axes in figure.get_axes()]
    used = [f"Used of the {kind} limit" for kind in ("memory", "wall_time")]
    assert {"Calls by worker", *used, "Queue and workers"} <= {*titles}
    named = [label.get_text() for label in figure.get_axes()[0].get_yticklabels()]
    assert named == ["w$0_{", "w$1_{"]


def test_reports_without_calls_limits_or_times_are_drawn() -> None:
    """There is something to see of each."""
    recorder = Recorder()
    assert recorder.report().plot()._repr_png_()
    recorder.add_row("fit", "k", CANCELLED, None, Limits(), "", "", nan, time.time(), 1)
    assert recorder.report().plot()._repr_png_()
    recorder.worker_added("tcp://1", 2, None)
    usage = Usage(0.0, 0.0, started=time.time())
    recorder.add_row("fit", "k", RETURNED, usage, Limits(), "", "", nan, time.time(), 1)
    assert recorder.report().plot()._repr_png_()


def test_calls_that_run_at_one_time_are_below_each_other() -> None:
    """Each worker has as many lanes as it ran calls at a time."""
    bars = [Bar("a", n, n + 2, "returned") for n in range(10)] + [Bar("b", 3, 4, "raised")]
    lanes = lanes_of(bars, 0.01)
    assert [lane.worker for lane in lanes] == ["a", "a", "b"]
    assert [len(lane.bars) for lane in lanes] == [5, 5, 1]
    for lane in lanes:
        ends = [(bar.started, bar.ended) for bar in lane.bars]
        assert all(before[1] <= after[0] for before, after in pairwise(ends))


def test_short_calls_that_look_like_one_are_drawn_as_one() -> None:
    """Else a million of them would be a picture of a million parts."""
    bars = [Bar("a", n / 1000, (n + 1) / 1000, "returned") for n in range(1000)]
    (lane,) = lanes_of(bars, 0.1)
    assert len(lane.bars) <= 11
    assert (lane.bars[0].started, lane.bars[-1].ended) == (0, 1)
