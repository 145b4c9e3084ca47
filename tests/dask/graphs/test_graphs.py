"""annotate() around the making of a graph, and around its computation."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import joblib
import numpy as np
import pytest
from clusters import SETTINGS
from distributed import Client, LocalCluster, Scheduler, SchedulerPlugin
from hypothesis import given
from hypothesis import strategies as st
from processes import until

from dask_limits import LimitsWorkerPlugin, annotate
from dask_limits.exceptions import WallTimeBreach


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, **SETTINGS) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        client.register_plugin(LimitsWorkerPlugin())
        yield client


class NoteLimits(SchedulerPlugin):
    """The limits of each task of the last graph, by the task's key."""

    name = "note-limits"

    def __init__(self) -> None:
        self.tasks: dict[Any, Any] = {}

    def update_graph(
        self, scheduler: Scheduler, *, tasks: list[Any], annotations: dict[str, Any], **_: Any
    ) -> None:
        self.tasks = {key: annotations.get("limits", {}).get(key) for key in tasks}

    def parts(self) -> list[Any]:
        """Of all tasks, but for the one with which `compute` puts the parts together."""
        return [limits for key, limits in self.tasks.items() if "finalize" not in str(key)]


@pytest.fixture
def noted(cluster: LocalCluster) -> Iterator[NoteLimits]:
    plugin = NoteLimits()
    cluster.scheduler.add_plugin(plugin)
    yield plugin
    cluster.scheduler.remove_plugin(plugin.name)


def rest(value: Any) -> Any:
    time.sleep(60)
    return value


def same(value: Any) -> Any:
    return value


def make_delayed(fn: Callable[[Any], Any]) -> Any:
    return dask.delayed(sum)([dask.delayed(fn)(n) for n in range(3)])


def make_array(fn: Callable[[Any], Any]) -> Any:
    ones = da.ones((4, 4), chunks=2) + 1
    return (ones.map_blocks(fn, dtype=float, meta=np.empty((0, 0))).T * 2).sum()


def make_bag(fn: Callable[[Any], Any]) -> Any:
    return db.from_sequence(range(4), npartitions=2).map(fn).map(abs).sum()


def make_frame(fn: Callable[[Any], Any]) -> Any:
    import dask.dataframe as dd
    import pandas as pd

    frame = dd.from_pandas(pd.DataFrame({"x": range(6)}), npartitions=2)
    return frame.map_partitions(fn, meta=frame._meta).x.sum()


MAKE = {"delayed": make_delayed, "array": make_array, "bag": make_bag, "frame": make_frame}
KEEP = {name: make for name, make in MAKE.items() if name != "frame"}


def run_compute(_: Client, what: Any) -> Any:
    return what.compute()


def run_client_compute(client: Client, what: Any) -> Any:
    return client.compute(what).result()


def run_persist(client: Client, what: Any) -> Any:
    # In two steps: what is computed of it afterwards has the limits of nobody.
    persisted = client.persist(what)
    until(lambda: all(f.done() for f in client.futures_of(persisted)))
    return persisted.compute()


RUN = {"compute": run_compute, "client.compute": run_client_compute, "persist": run_persist}
all_runs = pytest.mark.parametrize("run", RUN.values(), ids=RUN)


@all_runs
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_limits_hold_for_what_is_computed_in_the_block(
    make: Callable[..., Any], run: Callable[..., Any], client: Client
) -> None:
    what = make(rest)
    with pytest.raises(WallTimeBreach), annotate(wall_time=0.2):
        run(client, what)


@all_runs
@pytest.mark.parametrize("make", KEEP.values(), ids=KEEP)
def test_limits_hold_for_what_is_made_in_the_block(
    make: Callable[..., Any], run: Callable[..., Any], client: Client
) -> None:
    with annotate(wall_time=0.2):
        what = make(rest)
    with pytest.raises(WallTimeBreach):
        run(client, what)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_limits_hold_for_what_is_made_and_computed_in_the_block(
    make: Callable[..., Any], client: Client
) -> None:
    with pytest.raises(WallTimeBreach), annotate(wall_time=0.2):
        make(rest).compute()


@pytest.mark.parametrize("make", KEEP.values(), ids=KEEP)
def test_every_task_has_the_limits_and_dasks_optimization_stays_on(
    make: Callable[..., Any], client: Client, noted: NoteLimits, cluster: LocalCluster
) -> None:
    value = make(same).compute()
    n_plain = len(noted.tasks)
    assert noted.parts() == [None] * len(noted.parts())
    # The next will have the same keys, and a task that the scheduler knows stays as it is.
    until(lambda: not noted.tasks.keys() & cluster.scheduler.tasks)
    with annotate(wall_time=20):
        what = make(same)
    assert what.compute() == value
    assert noted.parts() == [{"wall_time": 20.0}] * len(noted.parts())
    assert len(noted.tasks) == n_plain


def test_collections_of_different_kinds_can_be_computed_together(
    client: Client, noted: NoteLimits, cluster: LocalCluster
) -> None:
    plain = dask.compute(*(make(same) for make in KEEP.values()))
    # The next will have the same keys, and a task that the scheduler knows stays as it is.
    until(lambda: not noted.tasks.keys() & cluster.scheduler.tasks)
    with annotate(wall_time=20):
        made = [make(same) for make in KEEP.values()]
        assert dask.compute(*made) == plain
    assert noted.parts() == [{"wall_time": 20.0}] * len(noted.parts())
    _, array, bag = made
    assert dask.compute(array, make_bag(abs)) == plain[1:]
    assert dask.compute(make_array(abs), bag) == (64, plain[2])


def test_a_delayed_graph_that_is_to_be_fused_keeps_its_limits(
    client: Client, noted: NoteLimits
) -> None:
    with annotate(wall_time=20):
        what = dask.delayed(sum)(dask.delayed(list)(range(3)))
    with dask.config.set({"optimization.fuse.delayed": True}):
        assert what.compute() == 3
    assert noted.parts() == [{"wall_time": 20.0}] * 2


def test_only_tasks_with_equal_limits_are_fused(client: Client, noted: NoteLimits) -> None:
    with annotate(wall_time=20):
        limited = da.ones(4, chunks=2).map_blocks(same, dtype=float)
    with annotate(wall_time=30):
        otherwise = limited.map_blocks(same, dtype=float)
    free = otherwise.map_blocks(same, dtype=float)
    assert free.sum().compute() == 4
    found = noted.parts()
    assert found.count({"wall_time": 20.0}) == 2
    assert found.count({"wall_time": 30.0}) == 2
    assert None in found


def test_delayed_that_is_made_of_a_collection_keeps_its_limits(
    client: Client, noted: NoteLimits
) -> None:
    with annotate(wall_time=20):
        # Of no other test: a task that Dask still has is not made again, and keeps its annotations.
        array = da.full(4, 0.25, chunks=2).map_blocks(same, dtype=float)
    assert dask.delayed(len)([array.sum(), 3]).compute() == 2
    assert noted.parts().count({"wall_time": 20.0}) == 2
    with annotate(wall_time=30):
        total = dask.delayed(float)(array.sum())
        parts = array.to_delayed()
    assert total.compute() == 1
    assert noted.parts() == [{"wall_time": 30.0}] * len(noted.parts())
    dask.compute(*parts)
    assert noted.parts() == [{"wall_time": 30.0}] * len(noted.parts())


LOSES: dict[str, Callable[[Any], Any]] = {
    "to_delayed": lambda array: array.to_delayed(),
    "dask.optimize": dask.optimize,
    "dask.delayed": dask.delayed(float),
    '"threads"': lambda array: array.compute(scheduler="threads"),
    '"sync"': lambda array: dask.compute(array, scheduler="sync"),
    '"processes"': lambda array: array.compute(scheduler="processes", num_workers=1),
}


@pytest.mark.parametrize("what", LOSES)
def test_limits_are_not_lost_without_a_warning_to(what: str, client: Client) -> None:
    with annotate(wall_time=20):
        array = da.ones(4, chunks=4).map_blocks(same, dtype=float)
    with pytest.warns(UserWarning, match=f"are lost: .*{what}") as caught:
        LOSES[what](array)
    assert {warning.filename for warning in caught} == {__file__}


def test_a_bag_that_becomes_a_dataframe_after_the_block_is_warned_of(client: Client) -> None:
    with annotate(wall_time=20):
        bag = db.from_sequence([{"x": 1}, {"x": 2}], npartitions=2).map(same)
    with pytest.warns(UserWarning, match=r"are lost: to_dataframe\(\)"):
        bag.to_dataframe(meta={"x": int})


def test_a_sum_of_a_bag_that_becomes_delayed_after_the_block_is_warned_of(client: Client) -> None:
    with annotate(wall_time=20):
        total = db.from_sequence([1, 2], npartitions=2).map(same).sum()
    with pytest.warns(UserWarning, match=r"are lost: to_delayed\(\)"):
        total.to_delayed()


@pytest.mark.parametrize("scheduler", ["threads", "sync", "processes"])
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_what_is_computed_in_the_block_without_a_cluster_is_warned_of(
    make: Callable[..., Any], scheduler: str
) -> None:
    what = make(same)
    with annotate(wall_time=20), pytest.warns(UserWarning, match=f'"{scheduler}"') as caught:
        what.compute(scheduler=scheduler)
    assert [warning.filename for warning in caught] == [__file__]
    what.compute(scheduler=scheduler)


def test_what_a_task_was_made_with_wins_over_what_is_around_its_computation(
    client: Client, noted: NoteLimits
) -> None:
    with annotate(memory="1 GiB"):
        what = dask.delayed(abs)(-3)
    with annotate(wall_time=20):
        assert what.compute() == 3
    assert noted.parts() == [{"memory": 2**30}]


@given(st.lists(st.sampled_from([None, 20.0, 30.0]), min_size=1, max_size=6), st.booleans())
def test_optimizing_changes_no_value_and_no_limit(
    limits: list[float | None], is_array: bool
) -> None:
    what: Any = da.arange(4, chunks=2) if is_array else db.from_sequence(range(4), npartitions=2)
    for wall_time in limits:
        block = annotate(wall_time=wall_time) if wall_time else contextlib.nullcontext()
        with block:
            what = what.map_blocks(add_one) if is_array else what.map(add_one)
    graph = what.__dask_optimize__(what.dask, what.__dask_keys__())
    parts = dask.get(dict(graph), what.__dask_keys__())
    assert sorted(itertools.chain(*parts)) == [n + len(limits) for n in range(4)]
    assert limits_of_layers(graph) == {seconds for seconds in limits if seconds}


def add_one(value: Any) -> Any:
    return value + 1


def limits_of_layers(graph: Any) -> set[float]:
    """The wall times in a graph that has been optimized."""
    found = set()
    for layer in getattr(graph, "layers", {}).values():
        if layer.annotations:
            of_keys = map(layer.annotations["limits"], layer)
            found |= {limits["wall_time"] for limits in of_keys if limits}
    return found


def test_an_optimization_of_the_users_own_stays() -> None:
    used: list[str] = []

    def optimize(dsk: Any, keys: Any, **_: Any) -> Any:
        used.append("own")
        return dsk

    with dask.config.set(array_optimize=optimize):
        with annotate(wall_time=20):
            what = da.ones(4, chunks=2).sum()
        assert dask.get(what.__dask_optimize__(dict(what.dask), []), what.__dask_keys__()) == (4,)
    assert used == ["own"]


# -- shuffles --------------------------------------------------------------------------------


def test_an_array_can_be_rechunked_in_the_block(client: Client) -> None:
    with annotate(wall_time=20):
        array = da.ones((80, 80), chunks=(4, 80)).rechunk((80, 4))
        assert array.sum().compute() == 6400


def test_a_p2p_shuffle_says_why_it_cannot_be_limited(client: Client) -> None:
    array = da.ones((8, 8), chunks=(4, 8)).rechunk((8, 4), method="p2p")
    with pytest.raises(RuntimeError, match="cannot run in a task process"), annotate(wall_time=20):
        array.compute()


def test_blocks_leave_dasks_configuration_as_it_was() -> None:
    def method() -> str | None:
        return dask.config.get("array.rechunk.method", None)

    def block() -> None:
        with annotate(wall_time=10):
            entered.set()
            leave.wait()

    before = method()
    entered, leave = threading.Event(), threading.Event()
    other = threading.Thread(target=block)
    with annotate(wall_time=20):
        other.start()
        entered.wait()
    assert method() == "tasks"  # the other thread is still in its block
    leave.set()
    other.join()
    assert method() == before


def test_a_users_own_choice_of_shuffle_stays() -> None:
    with dask.config.set({"array.rechunk.method": "p2p"}), annotate(wall_time=20):
        assert dask.config.get("array.rechunk.method") == "p2p"
        assert dask.config.get("dataframe.shuffle.method") == "tasks"


# -- dataframes ------------------------------------------------------------------------------


def test_a_dataframe_that_leaves_the_block_is_warned_of(client: Client) -> None:
    with pytest.warns(UserWarning, match="made inside of annotate") as caught:  # noqa: SIM117
        with annotate(wall_time=20):
            what = make_frame(same)
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert what.compute() == 15


def test_a_dataframe_that_is_merged_in_the_block_is_not_warned_of(client: Client) -> None:
    import dask.dataframe as dd
    import pandas as pd

    frame = dd.from_pandas(pd.DataFrame({"x": range(6), "y": range(6)}), npartitions=2)
    for _ in range(5):
        with annotate(wall_time=20):
            merged = frame.merge(frame, on="x").groupby("x").y_x.sum().compute()
        assert merged.sum() == 15


# -- joblib ----------------------------------------------------------------------------------


def pid_after_a_while(_: int) -> int:
    time.sleep(0.01)
    return os.getpid()


def test_joblibs_calls_are_limited_all_of_them(client: Client) -> None:
    with annotate(wall_time=20), joblib.parallel_config(backend="dask"):
        pids = joblib.Parallel()(joblib.delayed(pid_after_a_while)(n) for n in range(30))
    assert len(pids) == 30
    assert not set(pids) & set(client.run(os.getpid).values())


def test_a_breach_is_raised_by_joblib(client: Client) -> None:
    with annotate(wall_time=0.2), joblib.parallel_config(backend="dask"):  # noqa: SIM117
        with pytest.raises(WallTimeBreach, match=r"^batch_of_sleep\w*\(\) went over"):
            joblib.Parallel()(joblib.delayed(time.sleep)(60) for _ in range(3))


def squares(n: int) -> list[int]:
    return list(joblib.Parallel(n_jobs=2)(joblib.delayed(pow)(k, 2) for k in range(n)))


def test_joblib_within_joblib_runs_in_sequence(client: Client) -> None:
    # Two, as numpy before version 2 starts a program when it is imported; in parallel it were more.
    with annotate(wall_time=20, num_processes=2), joblib.parallel_config(backend="dask"):
        found = joblib.Parallel()(joblib.delayed(squares)(n) for n in range(4))
    assert found == [[k**2 for k in range(n)] for n in range(4)]


def test_joblibs_calls_that_are_isolated_in_threads_have_a_client(client: Client) -> None:
    with annotate(wall_time=60, isolation="thread"), joblib.parallel_config(backend="dask"):
        found = joblib.Parallel()(joblib.delayed(squares)(n) for n in range(4))
        assert found == [[k**2 for k in range(n)] for n in range(4)]
        with pytest.raises(ZeroDivisionError):
            joblib.Parallel()(joblib.delayed(divmod)(n, 0) for n in range(4))


# -- what is no task of the user's -------------------------------------------------------------


class CountsPickles:
    """Notes in a file each time it is pickled, and by which process."""

    def __init__(self, notes: Path) -> None:
        self.notes = notes

    def __reduce__(self) -> tuple[Any, ...]:
        with self.notes.open("a") as lines:
            lines.write(f"{os.getpid()}\n")
        return CountsPickles, (self.notes,)


def notes_of(thing: CountsPickles) -> str:
    return thing.notes.name


def notes_of_all(things: list[CountsPickles]) -> list[str]:
    return [thing.notes.name for thing in things]


def test_a_dependency_is_pickled_once_for_its_way_to_the_task_process(
    client: Client, tmp_path: Path
) -> None:
    (worker, _) = client.scheduler_info(n_workers=-1)["workers"]
    notes = tmp_path / "notes"
    thing = client.submit(CountsPickles, notes, workers=[worker])
    with annotate(wall_time=20):
        assert client.submit(notes_of, thing, workers=[worker]).result() == "notes"
    assert notes.read_text() == f"{os.getpid()}\n"  # the workers are threads of this process
    with annotate(wall_time=20):
        assert client.submit(notes_of_all, [thing], workers=[worker]).result() == ["notes"]
    assert notes.read_text() == f"{os.getpid()}\n" * 2


def test_a_result_is_pickled_once_and_stays_on_the_worker(client: Client, tmp_path: Path) -> None:
    (worker, _) = client.scheduler_info(n_workers=-1)["workers"]
    notes = tmp_path / "notes"
    with annotate(wall_time=20):
        thing = client.submit(CountsPickles, notes, workers=[worker])
    until(thing.done)
    pids = notes.read_text().split()
    assert len(pids) == 1
    assert int(pids[0]) != os.getpid()
    assert client.submit(notes_of, thing, workers=[worker]).result() == "notes"
    assert notes.read_text().split() == pids


def test_what_is_there_already_goes_through_no_task_process(client: Client, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    thing = CountsPickles(notes)
    with annotate(wall_time=20):
        what = dask.delayed(notes_of)(dask.delayed(thing, pure=True, traverse=False))
        assert what.compute() == "notes"
    pids = notes.read_text().split()
    assert set(pids) == {str(os.getpid())}


def test_a_task_process_does_not_import_distributed() -> None:
    with (
        Client(n_workers=1, threads_per_worker=1, processes=False, **SETTINGS) as client,
        annotate(wall_time=20, memory="60 MiB"),
    ):
        client.register_plugin(LimitsWorkerPlugin())
        imported = client.submit(eval, "'distributed' in __import__('sys').modules").result()
        nested = dask.delayed(list)([dask.delayed(abs)(-1), dask.delayed(abs)(-2)])
        assert nested.compute() == [1, 2]
    assert not imported
