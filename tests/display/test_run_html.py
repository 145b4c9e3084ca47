from __future__ import annotations

import pytest
from html_pages import Page
from hypothesis import given
from hypothesis import strategies as st

from dask_limits.display.run_html import run_html
from dask_limits.display.run_view import Amount, EndedRow, RunningRow, RunView

TAGS = {"div", "span", "table", "thead", "tbody", "tr", "th", "td", "code"}


def page_of(**view):
    page = Page(run_html(RunView("2 threads", "running", 61.0, **view)))
    assert page.is_whole
    return page


def styles(page):
    return [value for name, value in page.attributes if name == "style"]


def test_a_running_call_shows_its_usage_beside_its_limits():
    row = RunningRow(
        "fit",
        "depth=3",
        30.0,
        worker="w1",
        attempt=2,
        wall_time=Amount(30.0, 60.0),
        memory=Amount(180 * 2**20, 200 * 2**20),
    )
    page = page_of(running=(row,), n_running=3)
    for part in ("fit(depth=3)", "on w1, attempt 2", "30 s of 60 s", "180.0 MiB of 200.0 MiB"):
        assert part in page.text
    assert styles(page) == ["width:50%", "width:90%"]
    assert "... and 2 more" in page.text


@pytest.mark.parametrize(("amount", "is_shown"), [(Amount(1, 4), True), (Amount(1), False)])
def test_a_narrow_cell_has_room_for_what_is_limited(amount, is_shown):
    row = RunningRow("fit", "", 1.0, cpu_time=amount, num_processes=amount)
    page = page_of(running=(row,), n_running=1)
    assert ("CPU time" in page.text) == ("processes" in page.text) == is_shown


def test_a_limit_of_which_nothing_is_known_yet_is_shown():
    row = RunningRow("fit", "", 1.0, memory=Amount(None, 2**20))
    assert "? of 1.0 MiB" in page_of(running=(row,), n_running=1).text


def test_how_many_have_ended_how_and_how_many_are_left():
    page = page_of(counts={"memory": 1, "returned": 29}, n_left=10, cluster=("2 workers",))
    assert "29 returned1 memory" in page.text
    assert "30 of 40 calls" in page.text and styles(page) == ["width:75%"]
    assert "2 workers" in page.text
    assert "of" not in page_of(counts={"returned": 29}).text


def test_the_last_failures_are_shown_the_latest_first():
    rows = [EndedRow(float(n), "fit", str(n), "memory", f"cause {n}", "a.py:3") for n in range(9)]
    text = page_of(failures=tuple(rows)).text
    assert [text.find(f"cause {n}") > 0 for n in range(9)] == [False] * 4 + [True] * 5
    assert text.find("cause 8") < text.find("cause 7") < text.find("a.py:3", text.find("cause 7"))


@given(st.text() | st.just("<script>alert(1)</script>"))
def test_what_users_and_tasks_have_chosen_is_shown_as_text(text):
    running = RunningRow(text, text, 1.0, worker=text, wall_time=Amount(1.0, 2.0))
    ended = EndedRow(0.0, text, text, text, cause=text, where=text, worker=text)
    view = RunView(
        text, "running", 1.0, (running,), 1, cluster=(text,), counts={text: 1}, failures=(ended,)
    )
    page = Page(run_html(view))
    assert page.is_whole and set(page.tags) <= TAGS
    assert {name for name, _ in page.attributes} <= {"class", "style"}
