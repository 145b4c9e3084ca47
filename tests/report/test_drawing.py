"""A report as a picture."""

from __future__ import annotations

import time
from itertools import pairwise
from math import nan
from typing import Any

import pytest
from matplotlib.text import Text

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


def drawn(recorder: Recorder) -> dict[str, Any]:
    """The axes by their titles."""
    figure = recorder.report().plot()
    figure.canvas.draw()
    return {title: axes for axes in figure.get_axes() if (title := axes.get_title("left"))}


def test_without_a_cluster_there_are_no_workers_in_the_picture() -> None:
    """The end of each run tells that there is none. The machine has a name of its own."""
    recorder, now = Recorder(), time.time()
    for n in range(40):
        usage = Usage(0.049, 0.05, 2**24, started=now + n / 20 + (n % 3) / 2000)
        recorder.add_row("fit", "k", RETURNED, usage, LIMITS, "", "", now, now + 9, 1)
    recorder.worker_removed()
    axes = drawn(recorder)
    used = [f"Used of the {kind} limit" for kind in ("memory", "wall_time")]
    assert {*axes} == {"Calls", "Queue", *used}
    named = [label.get_text() for label in axes["Calls"].get_yticklabels()]
    assert named == ["this machine"]
    entries = [text.get_text() for text in axes["Queue"].get_legend().get_texts()]
    assert entries == ["waiting calls", "running calls"]
    assert all(tick == int(tick) for tick in axes["Queue"].get_yticks())
    running = axes["Queue"].get_lines()[1].get_ydata()
    assert set(running[20:-20]) == {1}, "one follows the other"


def test_what_no_call_had_a_limit_on_has_no_place_in_the_picture() -> None:
    """There is a plot of what was used for each limit that there was."""
    for limits, kinds in [(Limits(), []), (Limits(memory="1 GiB"), ["memory"])]:
        recorder, now = Recorder(), time.time()
        usage = Usage(1.0, 0.5, 2**24, started=now)
        recorder.add_row("fit", "k", RETURNED, usage, limits, "", "", now, now + 9, 1)
        assert {*drawn(recorder)} == {"Calls", "Queue", *(f"Used of the {k} limit" for k in kinds)}


def test_nothing_in_the_picture_is_covered_or_cut() -> None:
    """Neither by a legend, nor by an axis; times are below each other."""
    recorder, now = Recorder(), time.time()
    recorder.worker_added("tcp://1", 2, 2**30)
    for n, ending in enumerate(Ending):
        usage = Usage(1.0 + n, 0.5, (n % 3) * 2**29, started=now + n)
        recorder.add_row("fit", "k", End(ending, "memory"), usage, LIMITS, "w", "", now, now + 9, 1)
    axes = drawn(recorder)
    queue, calls = axes["Queue and workers"], axes["Calls by worker"]
    assert queue.get_position().x0 == pytest.approx(calls.get_position().x0)
    assert queue.get_position().x1 == pytest.approx(calls.get_position().x1)
    for one in (queue, calls):
        legend = one.get_legend().get_window_extent()
        titles = [it for it in one.findobj(Text) if it.get_text() == one.get_title("left")]
        assert titles and not any(legend.overlaps(it.get_window_extent()) for it in titles)
        assert legend.y0 >= one.get_window_extent().y1 - 1
        others = [other for other in axes.values() if other is not one]
        assert not any(legend.overlaps(other.get_window_extent()) for other in others)
        assert legend.x1 <= one.figure.bbox.x1 and legend.y1 <= one.figure.bbox.y1
    points = axes["Used of the memory limit"].collections
    assert points and not any(point.get_clip_on() for point in points)


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
