"""What cells of a notebook show of schedulers, tasks, plugins and reports."""

from __future__ import annotations

import threading

import pytest
from html_pages import Page

from dask_limits import Limiter, Plugin, PynisherPlugin, Retry, Scheduler

EVIL = "<script>alert('x')</script>"


class Evil(Plugin):
    name = EVIL


def train(depth: int, rate: float = 0.1) -> float:
    return depth * rate


@pytest.fixture(scope="module")
def scheduler():
    """One that has run, with a task, calls that failed, and names that are markup."""
    made = Scheduler.with_threads(2)
    plugins = [PynisherPlugin(), Limiter(max_calls=9), Retry(max_retries=1), Evil()]
    task = made.task(train, plugins=plugins)

    def odd(n, exception=None):
        raise ValueError(EVIL)

    odd.__name__ = EVIL
    other = made.task(odd)
    other.on_exception(odd, max_calls=1, hidden=False, when=lambda: False)
    made.on_start(lambda: [task.submit(n) for n in range(3)] and None)
    made.on_start(lambda: other.submit(1) and None)
    made.run(on_exception="continue", display=False)
    return made


def page_of(thing):
    page = Page(thing._repr_html_())
    assert page.is_whole and "script" not in page.tags
    return page


def test_a_scheduler_shows_its_executor_its_counts_and_its_tasks(scheduler):
    text = page_of(scheduler).text
    for part in ("executor2 threads", "statenot running", EVIL):
        assert part in text
    # running, waiting, held, submitted, returned, failed, cancelled
    assert "train0003300" in text
    assert f"{EVIL}0001010" in text
    assert "@on_start1" in text


def test_a_scheduler_with_many_tasks_shows_some():
    made = Scheduler.with_threads(1)
    tasks = [made.task(abs) for _ in range(60)]  # a scheduler does not keep them
    assert len(tasks) == 60
    assert "... and 10 more tasks" in page_of(made).text


def test_a_running_scheduler_shows_that_it_runs():
    made = Scheduler.with_threads(1)
    pages = []
    made.on_start(lambda: pages.append(page_of(made)))
    made.run(display=False)
    assert "staterunning" in pages[0].text


def test_calls_that_wait_for_the_executor_are_not_said_to_run():
    made, go = Scheduler.with_threads(1), threading.Event()
    task = made.task(lambda n: go.wait(60))
    made.on_start(lambda: [task.submit(n) for n in range(5)] and None)

    def look():
        if not any(future.running() for future in task.futures()):
            made.call_later(0.01, look)
            return
        pages.append(page_of(made).text)
        go.set()

    pages = []
    made.on_start(look)
    made.run(display=False)
    assert "<lambda>1405000" in pages[0]  # running, waiting, held, submitted, ...


def test_a_task_shows_its_function_its_plugins_and_its_events(scheduler):
    task = next(iter(scheduler.tasks.values()))
    text = page_of(task).text
    for part in ("train(depth: int, rate: float = 0.1) -> float", task.unique_ref, "Calls 3/9"):
        assert part in text
    assert "Plugin limiter" in text and f"Plugin {EVIL}" in text
    assert "@on-submitted3" in text


def test_a_plugin_shows_its_properties():
    plugin = PynisherPlugin(memory="2 GiB", wall_time=60)
    assert page_of(plugin).text == "Plugin pynisher-pluginMemory 2.0 GiBWall time 60 s"
    assert page_of(Evil()).text == f"Plugin {EVIL}"


def test_a_report_and_its_suggestions_are_tables(scheduler):
    page = page_of(scheduler.report())
    assert "train33 returned" in page.text and f"{EVIL}11 raised" in page.text
    assert "a" not in page.tags
    assert "limit(train" in page_of(scheduler.report().suggest_limits()).text
    nothing = Scheduler.with_threads(1).report()
    assert page_of(nothing).text == "No call has ended"
    assert "No limits to suggest" in page_of(nothing.suggest_limits()).text
