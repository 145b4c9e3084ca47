"""The page `/limits` on Dask's dashboard: when it is there, and what it asks for."""

from __future__ import annotations

import importlib.util
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from clusters import SETTINGS
from distributed import Client, LocalCluster
from overdoing import wait_on
from processes import until
from required import need

from dask_limits import LimitsWorkerPlugin, annotate, limit
from dask_limits.dask.compat import dashboard
from dask_limits.dask.compat.undocumented_name import Name
from dask_limits.dask.ended import SLOT_S, ByFunction, slot_of
from dask_limits.dask.running import Row
from dask_limits.dask.scheduler.page import columns, html
from dask_limits.dask.scheduler.plugin import plugin_of
from dask_limits.executors.dask.executor import DaskExecutor

HAS_BOKEH = importlib.util.find_spec("bokeh") is not None


@contextmanager
def cluster(**options: Any) -> Iterator[Client]:
    with (
        LocalCluster(n_workers=1, processes=False, **SETTINGS | options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(LimitsWorkerPlugin())
        yield client


def menu(client: Client, page: str = "status") -> list[str]:
    """The links of a page of the dashboard."""
    port = client.cluster.scheduler.http_server.port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}") as answer:
        assert answer.status == 200
        return re.findall('<a href="(.*?)"', answer.read().decode())


def is_gone(client: Client) -> bool:
    try:
        menu(client, "limits")
    except urllib.error.HTTPError as error:
        assert error.code == 404
        return True
    return False


def test_the_page_is_added_once_and_goes_with_the_plugin() -> None:
    need(HAS_BOKEH, "bokeh")
    with cluster() as client:
        client.register_plugin(LimitsWorkerPlugin(preload=["json"]))  # replaces the other one
        with Client(client.scheduler.address, set_as_default=False) as other:
            other.register_plugin(LimitsWorkerPlugin())
        for page in ("status", "limits", "workers"):
            assert menu(client, page).count("limits") == 1
        client.unregister_worker_plugin(LimitsWorkerPlugin.name)
        until(lambda: is_gone(client))
        assert "limits" not in menu(client)
        client.register_plugin(LimitsWorkerPlugin())
        until(lambda: not is_gone(client))
        assert menu(client).count("limits") == 1


@pytest.mark.parametrize("options", [{"scheduler_kwargs": {"dashboard": False}}, {}])
def test_without_a_dashboard_calls_are_limited_all_the_same(options, monkeypatch) -> None:
    """It is off; or Dask has another one than we know of."""
    if not options:
        need(HAS_BOKEH, "bokeh")
        path = "distributed.dashboard.core:BokehApplication"
        gone = Name(
            "distributed", "distributed.dashboard.core:Gone", "to test this", "1", "Nothing."
        )
        monkeypatch.setitem(dashboard._PAGES, path, gone)
    with cluster(**options) as client:
        with annotate(wall_time=0.3):
            assert client.submit(wait_on).exception(timeout=60)
        assert is_gone(client)


def test_the_scheduler_knows_endings_only_once_someone_looks() -> None:
    with cluster() as client:

        def known(dask_scheduler: Any) -> dict[str, dict[str, int]]:
            functions = plugin_of(dask_scheduler).cluster.ended.functions
            return {name: dict(one.endings) for name, one in functions.items()}

        def look(dask_scheduler: Any) -> list[str]:
            shown = plugin_of(dask_scheduler)._watch.latest()
            return [failure.ending for failure in shown.failures]

        with annotate(wall_time=0.3):
            assert client.submit(wait_on).exception(timeout=60)
        with annotate(wall_time=60):
            assert client.submit(pow, 2, 3).result(timeout=60) == 8
            assert client.submit(divmod, 1, 0).exception(timeout=60)
        with annotate(memory="900 TiB"):
            assert client.submit(abs, 1).exception(timeout=60)
        refused = {"abs": {"refused": 1}}  # by the scheduler itself
        assert client.run_on_scheduler(known) == refused
        client.run_on_scheduler(look)
        endings = {"wait_on": {"wall_time": 1}, "pow": {"returned": 1}, "divmod": {"raised": 1}}
        until(lambda: client.run_on_scheduler(known) == endings | refused)
        until(lambda: sorted(client.run_on_scheduler(look)) == ["refused", "wall_time"])


def test_a_breach_is_shown_with_the_arguments_of_its_call() -> None:
    """Of a task of Dask's, and of a call of a driver, whose arguments travel pickled."""
    with cluster() as client, DaskExecutor(client) as executor:

        def look(dask_scheduler: Any) -> list[str]:
            shown = plugin_of(dask_scheduler)._watch.latest()
            return [failure.message for failure in shown.failures]

        with annotate(wall_time=0.3):
            assert client.submit(time.sleep, 60).exception(timeout=60)
        assert executor.submit(limit(time.sleep, wall_time=0.3), 61).exception(timeout=60)
        over = "went over its wall_time limit of 0.3 s"

        def are_shown() -> bool:
            messages = client.run_on_scheduler(look)
            lines = [message.partition(":")[0] for message in messages]
            return sorted(lines) == [f"sleep(60) {over}", f"sleep(61) {over}"]

        until(are_shown)


def test_a_worker_that_leaves_tells_what_it_has_not_told() -> None:
    with cluster() as client:
        with annotate(wall_time=60):
            assert client.submit(pow, 2, 3).result(timeout=60) == 8

        def known(dask_scheduler: Any) -> list[str]:
            return [*plugin_of(dask_scheduler).cluster.ended.functions]

        client.retire_workers(list(client.scheduler_info()["workers"]))
        until(lambda: client.run_on_scheduler(known) == ["pow"])


def test_what_is_remembered_of_functions_is_bounded() -> None:
    functions = ByFunction()
    for number in range(1000):
        functions[f"f{number}"].endings["returned"] += 1
    assert len(functions) == 101
    assert functions["(others)"].endings.total() == 900


def test_the_endings_of_an_hour_are_shown_in_sixty_spans() -> None:
    now = 1_000_000.0
    slots = {(slot_of(now - ago), "memory"): 1 for ago in range(0, 3600, SLOT_S)}
    shown = columns.of_slots(slots, now)
    assert len(shown["memory"]) == 60
    assert sum(shown["memory"]) == len(slots)
    assert -60.5 < min(shown["middle"]) < -59


def running(n: int, used: float = 0.0, function: str = "f") -> Row:
    limits = {"memory": 100, "wall_time": 50.0, "cores": 1}
    return f"key-{n}", 0, function, f"worker-{n % 7}", limits, (used, 0.0, n % 100, 1)


def test_of_very_many_calls_those_are_shown_that_are_nearest_to_a_limit() -> None:
    rows = [running(n) for n in range(1000)]
    shown = columns.of_running(rows)
    assert {*shown["memory"]} == {95, 96, 97, 98, 99}
    assert len(shown["worker"]) == columns.MOST == 50
    assert shown["worker"] == sorted(shown["worker"])
    assert shown["memory_text"][0].endswith("of 100 B")


def test_a_search_looks_at_calls_too_that_are_not_shown() -> None:
    rows = [running(n) for n in range(1000)] + [running(0, function="Rare")]
    assert "Rare" not in columns.of_running(rows)["function"]
    assert columns.of_running(columns.matching(rows, "rare"))["function"] == ["Rare"]
    assert len(columns.matching(rows, "KEY-999")) == 1
    assert {row[3] for row in columns.matching(rows, "worker-3")} == {"worker-3"}


def test_what_waits_runs_and_has_ended_adds_up() -> None:
    functions = ByFunction()
    functions["f"].endings["returned"] = 5
    table = columns.FunctionColumns()
    shown = table.of(functions, {"f": 3, "g": 2}, {"f": 2})
    assert shown["function"] == ["f", "g"]
    assert shown["waiting"] == [3, 2]
    assert shown["running"] == [2, 0]
    assert shown["ended_text"] == ["5 of 10", "0 of 2"]
    functions["f"].endings["memory"] = 1
    shown = table.of(functions, {}, {})
    assert shown["ended_text"] == ["6 of 6"]
    assert shown["endings"] == ["5 returned, 1 memory"]


def test_the_scheduler_counts_the_calls_of_a_function_that_wait() -> None:
    """Those that wait for others, too, and each of a batch; no others of Dask's tasks."""
    with cluster() as client:

        def waiting(dask_scheduler: Any) -> dict[str, int]:
            return dict(plugin_of(dask_scheduler).cluster.waiting({"wait_on": 1}))

        assert client.submit(abs, 1).result(timeout=60) == 1
        with annotate(wall_time=60, cores=1):
            first = client.submit(wait_on, pure=False)
            others = [client.submit(wait_on, pure=False) for _ in range(4)]
        until(lambda: client.run_on_scheduler(waiting) == {"wait_on": 4})
        client.cancel([first, *others], force=True)
        until(lambda: client.run_on_scheduler(waiting) == {})


@pytest.mark.parametrize("part", ["function", "ending", "message", "stacks", "worker"])
def test_no_part_of_a_breach_is_taken_for_html(part: str) -> None:
    evil = "<img src=x onerror=alert(1)>\"'&"
    parts = {"function": "f", "ending": "memory", "message": "m", "stacks": "s", "worker": "w"}
    failure = columns.ended.Failure(at=0.0, **parts | {part: evil})
    assert "<img" not in html.of_failure(failure)
