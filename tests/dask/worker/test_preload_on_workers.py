"""What workers do before calls come: the plugin that was registered last says what."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import SETTINGS
from distributed import Client, LocalCluster
from processes import until

from dask_limits import LimitsWorkerPlugin, PynisherPlugin, Scheduler, annotate

pytestmark = pytest.mark.dask


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=1, threads_per_worker=2, **SETTINGS) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


def set_variable(text: str) -> None:
    os.environ["SET_BEFORE"] = text


def look() -> tuple[bool, str | None]:
    return "wave" in sys.modules, os.environ.get("SET_BEFORE")


def seen(client: Client, **options: Any) -> Any:
    with annotate(wall_time=60):
        return client.submit(look, pure=False, **options).result(timeout=60)


def plugin(text: str) -> LimitsWorkerPlugin:
    return LimitsWorkerPlugin(preload=["wave"], initializer=set_variable, initargs=[text])


def test_the_one_that_is_registered_last_holds_and_no_running_call_is_disturbed(
    client: Client, tmp_path: Path
) -> None:
    def wait(begun: Path, go_on: Path) -> int:
        with begun.open("a") as file:
            file.write("x")
        while not go_on.exists():
            time.sleep(0.01)
        return os.getpid()

    client.register_plugin(LimitsWorkerPlugin())
    assert seen(client) == (False, None)
    with annotate(wall_time=60):
        running = client.submit(wait, tmp_path / "begun", tmp_path / "go on")
    until((tmp_path / "begun").exists)
    for text in "ab":
        client.register_plugin(plugin(text))
        assert seen(client) == (True, text)
    client.register_plugin(LimitsWorkerPlugin())  # nothing to preload: it has no effect
    assert seen(client) == (True, "b")
    (tmp_path / "go on").touch()
    assert running.result(timeout=60)
    assert (tmp_path / "begun").read_text() == "x"


def test_workers_that_join_and_those_that_start_again_do_it_too(
    cluster: LocalCluster, client: Client
) -> None:
    client.register_plugin(LimitsWorkerPlugin())
    client.register_plugin(plugin("a"))
    (first,) = client.scheduler_info(n_workers=-1)["workers"]
    cluster.scale(2)
    client.wait_for_workers(2, timeout=60)
    (late,) = set(client.scheduler_info(n_workers=-1)["workers"]) - {first}
    assert seen(client, workers=[late]) == (True, "a")
    client.restart(timeout=60)
    assert seen(client) == (True, "a")


def test_after_it_was_removed_the_next_one_starts_from_nothing(client: Client) -> None:
    for text in "ab":
        client.register_plugin(plugin(text))
        assert seen(client) == (True, text)
        client.unregister_worker_plugin(LimitsWorkerPlugin.name)
    client.register_plugin(LimitsWorkerPlugin())
    assert seen(client) == (False, None)


def test_of_two_schedulers_on_one_cluster_the_one_that_began_last_says_what(
    client: Client,
) -> None:
    found = []
    for text in ("a", "b", None, "b"):
        options = {} if text is None else {"initializer": set_variable, "initargs": [text]}
        scheduler = Scheduler.with_dask(client, **options)
        task = scheduler.task(look, plugins=PynisherPlugin(walltime_limit=60))
        scheduler.on_start(lambda task=task: task.submit() and None)
        scheduler.on_future_result(lambda _, value: found.append(value[1]))
        scheduler.run(timeout=60)
    assert found == ["a", "b", "b", "b"]


def test_a_module_that_was_uploaded_is_preloaded_in_its_current_version(
    client: Client, tmp_path: Path
) -> None:
    def answer() -> int:
        return sys.modules["uploaded_for_preload"].answer()  # type: ignore[no-any-return]

    client.register_plugin(LimitsWorkerPlugin(preload=["uploaded_for_preload"]))
    for n in range(1, 4):
        module = tmp_path / "uploaded_for_preload.py"
        module.write_text(f"def answer(): return {n}")
        client.upload_file(str(module))
        with annotate(wall_time=60):
            assert client.submit(answer, pure=False).result(timeout=60) == n
