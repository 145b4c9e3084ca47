from __future__ import annotations

import os
import time

import pytest
from html_pages import Page
from hypothesis import given
from hypothesis import strategies as st

from dask_limits import ExitState, Limits, Outcome, Scheduler, Usage, exceptions, limit
from dask_limits.units import format_seconds

USAGE = Usage(wall_time=1.5, cpu_time=0.25, peak_memory=180 * 2**20)
EVIL = st.text() | st.just("<script>alert(1)</script>") | st.just('" onclick="x')
TAGS = {*("div", "span", "style", "table", "thead", "tbody", "tr", "th", "td")}
TAGS |= {*("code", "pre", "details", "summary")}


def eat(n_bytes):
    block = bytearray(n_bytes)
    time.sleep(600)
    return len(block)


def page_of(thing):
    page = Page(thing._repr_html_())
    assert page.is_whole and set(page.tags) <= TAGS
    return page


def test_limits_are_shown_as_people_write_them():
    page = page_of(Limits(memory="2 GiB", wall_time=(5, "m"), cores=2, reserve=False))
    for part in ("memory2.0 GiB", "wall time300 s", "cores2", "reservesno"):
        assert part in page.text
    assert "no limit" in page_of(Limits()).text


def test_a_usage_shows_what_it_knows():
    more = Usage(1.5, float("nan"), exit_code=-9, stdout="<b>out", stderr="", started=0.0)
    text = page_of(more).text
    for part in ("CPU timenot known", "-9 (SIGKILL)", "1970-01-01 00:00:00 UTC", "<b>out"):
        assert part in text
    assert "stderr" not in text
    assert "180.0 MiB" in page_of(USAGE).text


def test_a_breach_shows_its_usage_beside_its_limits_as_bars():
    limits = Limits(memory="200 MiB", wall_time=1)
    error = exceptions.WallTimeBreach("too long", call="fit", limits=limits, usage=USAGE)
    page = page_of(error)
    assert "180.0 MiB of 200.0 MiB" in page.text and "1.5 s of 1 s" in page.text
    widths = [value for name, value in page.attributes if name == "style"]
    assert widths == ["width:90%", "width:100%"]


def test_the_outcome_of_a_real_breach_shows_where_it_was_and_folds_the_stack():
    outcome = limit(eat, memory="200 MiB", wall_time=60).run(500 * 2**20)
    page = page_of(outcome)
    assert "MemoryBreach" in page.text and "in eat" in page.text
    assert "of 200.0 MiB" in page.text and "stacks when it was ended" in page.text
    assert outcome.exception.stacks in page.text
    assert page_of(outcome.exception).text.startswith("Call of eat()")


@pytest.mark.parametrize("isolation", ["clean", "thread"])
def test_the_outcome_of_an_own_error_shows_where_it_was_raised(isolation):
    def fit():
        raise ValueError("<script>no</script>")

    outcome = limit(fit, wall_time=60, isolation=isolation).run()
    page = page_of(outcome)
    line = fit.__code__.co_firstlineno + 1
    assert f"{__file__}:{line} in fit" in page.text
    assert "ValueError<script>no</script>" in page.text


def test_other_endings_show_what_is_known():
    assert "ExitError" in page_of(limit(os._exit, wall_time=60).run(3)).text
    refused = exceptions.LimitRefusedError("no", call="f", limits=Limits(cores=9))
    assert "cores9" in page_of(refused).text
    assert "Call" in page_of(exceptions.CallError()).text


def test_the_value_of_an_outcome_is_cut_short():
    began = time.monotonic()
    page = page_of(Outcome(USAGE, value=[[0] * 10_000] * 1_000_000))
    assert len(page.text) < 1000
    assert time.monotonic() - began < 30  # a repr of all of it would take an hour, and 30 GB

    class Odd:
        def __repr__(self):
            raise RuntimeError

    assert "Odd" in page_of(Outcome(USAGE, value=Odd())).text
    assert format_seconds(1.5) in page_of(Outcome(USAGE, value=None)).text


class Silent(Exception):
    def __str__(self):
        raise RuntimeError


def test_an_error_that_cannot_be_printed_is_shown_by_its_type():
    assert "Silent" in page_of(Outcome(USAGE, exception=Silent())).text


@given(EVIL, EVIL, EVIL, EVIL)
def test_what_users_and_tasks_have_chosen_is_shown_as_text(call, message, stacks, output):
    usage = Usage(1.0, 1.0, stdout=output, stderr=output)
    error = exceptions.MemoryBreach(
        message, call=call, limits=Limits(memory="1 GiB"), usage=usage, stacks=stacks
    )
    error.add_note(message)
    error.__cause__ = exceptions.RemoteTraceback(stacks)
    for thing in (error, usage, Outcome(usage, exception=error), Outcome(usage, value=message)):
        page = page_of(thing)
        names = {name for name, _ in page.attributes}
        assert names <= {"class", "style"}


class LikeOursError(Exception):
    """One of the user's with attributes of the names of ours, as that of docopt has a `usage`."""

    usage, limits, stacks, __notes__ = "Usage: prog [-h]", "none", "<b>", 5


def test_the_attributes_of_an_error_of_the_users_are_not_taken_for_ours():
    shown = page_of(Outcome(Usage(1.0, 1.0), exception=LikeOursError("bad"))).text
    assert "LikeOursErrorbad" in shown
    assert "prog" not in shown
    assert "stacks" not in shown


def test_a_function_with_limits_shows_its_parameters_and_its_limits():
    page = page_of(limit(eat, memory="2 GiB", wall_time=60))
    for part in ("eat(n_bytes)", "memory2.0 GiB", "wall time60 s"):
        assert part in page.text

    @limit(cpu_time=5)
    def decorated(x: int = 1) -> int:
        return x

    assert "CPU time5 s" in page_of(decorated).text
    assert repr(limit(eat, cpu_time=5)) == "LimitedCall(eat, Limits(cpu_time=5.0))"


class Odd:
    """A callable whose name and signature may be anything."""

    def __init__(self, name):
        self.__name__ = self.__qualname__ = name
        self.__signature__ = name

    def __call__(self):
        pass


@given(EVIL)
def test_a_function_with_limits_of_any_name_is_shown_as_text(name):
    page_of(limit(Odd(name), wall_time=1))


@pytest.mark.parametrize("code", [*ExitState.Code])
def test_the_end_of_a_run_says_why_and_what_was_raised(code):
    assert code.value in page_of(ExitState(code)).text
    breach = exceptions.WallTimeBreach(
        "too <b>long", call="fit", limits=Limits(wall_time=1), usage=USAGE
    )
    page = page_of(ExitState(code, breach))
    for part in ("WallTimeBreach", "too <b>long", "1.5 s of 1 s"):
        assert part in page.text
    page_of(ExitState(code, LookupError("here")))


def test_the_end_of_a_real_run_is_shown_as_it_was():
    scheduler = Scheduler(1)
    task = scheduler.task(time.sleep, wall_time=0.2)
    scheduler.on_start(lambda: task.submit(60))
    state = scheduler.run(on_exception="end", timeout=60)
    page = page_of(state)
    assert "exception" in page.text and "of 0.2 s" in page.text
    assert repr(state).startswith("ExitState(code=<Code.EXCEPTION: 'exception'>, exception=")
