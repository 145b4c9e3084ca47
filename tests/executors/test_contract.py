"""What every executor promises. A new one is added by a line in EXECUTORS."""

from __future__ import annotations

import concurrent.futures
import enum
import functools
import gc
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from leftovers import close_default_guardian
from overdoing import wait_on
from processes import all_gone, command, until, wait_for

from dask_limits import (
    LimitedExecutor,
    PynisherPlugin,
    Scheduler,
    SequentialExecutor,
    exceptions,
    limit,
    progress,
    share,
)
from dask_limits.executors import Future, factories
from dask_limits.executors.wrapped import WrappedExecutor
from dask_limits.plugins import Retry


def processes() -> Any:
    from dask_limits.executors.processes import ProcessExecutor

    return ProcessExecutor(2)


def loky() -> Any:
    return factories.loky(2).make()


def dask() -> Any:
    import dask

    from dask_limits.executors.dask.executor import DaskExecutor

    with dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}):
        return DaskExecutor.connect(n_workers=2)


def jobqueue() -> Any:
    from fake_batch_systems import BatchSystem

    from dask_limits.executors.jobqueue import JobQueueExecutor, JobSpec

    folder = tempfile.TemporaryDirectory(prefix="dask-limits-")

    class InFolder(JobQueueExecutor):
        def shutdown(self, *args: Any, **options: Any) -> None:
            super().shutdown(*args, **options)
            folder.cleanup()

    path = shlex.quote(os.pathsep.join(sys.path))  # in which jobs find what they are to call
    spec = JobSpec(
        "pbs",
        cores=2,
        memory="2 GiB",
        interface="lo",
        job_script_prologue=[f"export PYTHONPATH={path}"],
        shared_temp_directory=f"{folder.name}/shared",
        **BatchSystem("pbs", Path(folder.name)).commands,
    )
    return InFolder.start(spec)


def limited_on_a_pool() -> Any:
    pool = ProcessPoolExecutor(2)
    executor = LimitedExecutor(pool, memory="1 GiB")
    shut_down = executor.shutdown

    def shut_down_both(*args: Any, **options: Any) -> None:
        shut_down(*args, **options)
        pool.shutdown()

    executor.shutdown = shut_down_both  # type: ignore[method-assign]
    return executor


# Importing this module takes time, in each of many task processes.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@dataclass(frozen=True)
class Kind:
    make: Any
    elsewhere: bool = True
    """Calls without limits run in another process."""
    ends_running: bool = False
    """`cancel()` ends a call that runs under a limit."""
    ends_unlimited: bool = False
    """`cancel()` ends a call that runs without."""
    tells_usage: bool = True
    """What calls with limits have used so far is known while they run."""
    tells: bool = True
    """What a call reports of its progress reaches the driver."""
    has_workers: bool = False
    """It runs on workers that have names, some of them in batch jobs."""


EXECUTORS = {
    "processes": Kind(processes, ends_running=True, ends_unlimited=True),
    "sequential": Kind(SequentialExecutor, elsewhere=False, tells_usage=False),
    "threads": Kind(
        lambda: WrappedExecutor(ThreadPoolExecutor(2, "dask-limits"), owned=True),
        elsewhere=False,
        ends_running=True,
    ),
    "stdlib processes": Kind(
        lambda: WrappedExecutor(ProcessPoolExecutor(2), owned=True), tells=False, tells_usage=False
    ),
    "loky": Kind(loky, tells=False, tells_usage=False),
    "dask": Kind(dask, ends_running=True, has_workers=True),
    "jobqueue": Kind(jobqueue, ends_running=True, has_workers=True),
    "limited": Kind(
        lambda: LimitedExecutor(2), ends_running=True, ends_unlimited=True, tells_usage=False
    ),
    "limited on a pool": Kind(limited_on_a_pool, tells=False, tells_usage=False),
}


@pytest.fixture(scope="module", params=EXECUTORS)
def kind(request):
    return EXECUTORS[request.param]


@pytest.fixture(scope="module")
def executor(kind):
    executor = kind.make()
    executor.submit(abs, 1).result(timeout=60)  # all that it starts, it has started now
    executor.submit(limit(abs, wall_time=30), 1).result(timeout=60)
    yield executor
    executor.shutdown(cancel_futures=True)


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """An executor serves all tests here; the last test sees that it leaves nothing."""


def call(x, /, y=0, *, fn=0, self=0):
    return x, y, fn, self


def fail(text):
    raise LookupError(text)


class Unpicklable:
    def __reduce__(self):
        raise TypeError("not this one")


class OddError(Exception):
    def __init__(self):
        super().__init__("odd")
        self.lock = threading.Lock()


def odd():
    raise OddError


def signal_and_wait(path):
    Path(path).touch()
    time.sleep(600)


def test_a_call_returns_with_its_usage(executor):
    future = executor.submit(call, 1, 2, fn=3, self=4)
    assert isinstance(future, Future)
    assert future.result(timeout=30) == (1, 2, 3, 4)
    assert future.usage.wall_time >= 0
    assert not future.running()


def take_and_wait(path):
    kept = bytearray(60 * 2**20)
    Path(path).touch()
    while Path(path).exists():
        time.sleep(0.01)
    return len(kept)


def test_it_tells_what_a_call_has_used_so_far(kind, executor, tmp_path):
    if not kind.tells_usage:
        pytest.skip("this one does not know")
    path = tmp_path / "taken"
    future = executor.submit(limit(take_and_wait, memory="500 MiB"), str(path))

    def seen():
        return [call.usage for call in executor.running_calls() if call.future is future]

    until(path.exists)
    until(lambda: any(usage.peak_memory > 58 * 2**20 for usage in seen()))
    (usage,) = seen()
    until(lambda: seen()[0].wall_time > usage.wall_time)
    assert usage.num_processes == 1
    assert abs(usage.started + usage.wall_time - time.time()) < 30
    assert {bool(call.worker) for call in executor.running_calls()} == {kind.has_workers}
    path.unlink()
    assert future.result(timeout=30) == 60 * 2**20
    assert seen() == []


def test_its_futures_work_with_the_standard_library(executor):
    futures = [executor.submit(abs, -n) for n in range(20)]
    done, _ = concurrent.futures.wait(futures, timeout=30)
    assert sorted(future.result() for future in done) == list(range(20))
    assert list(executor.map(abs, [-1, -2])) == [1, 2]


@pytest.mark.parametrize("level", [None, "clean", "warm", "fresh", "thread"])
def test_a_call_gets_what_is_shared_in_place_of_its_handle(executor, level):
    handle = share(np.arange(2**18))
    look = at_level(lambda inside, n: int(inside["a"][0][n]), level, wall_time=60)
    futures = [executor.submit(look, {"a": [handle]}, n) for n in range(3)]
    assert [future.result(timeout=60) for future in futures] == [0, 1, 2]
    assert list(executor.map(at_level(len, level, wall_time=60), [handle] * 3)) == [2**18] * 3


def test_an_exception_keeps_its_type_arguments_and_traceback(executor):
    error = executor.submit(fail, "lost").exception(timeout=30)
    assert (type(error), error.args) == (LookupError, ("lost",))
    names = []
    at = error.__traceback__
    while at is not None:
        names.append(at.tb_frame.f_code.co_name)
        at = at.tb_next
    assert "fail" in names or "in fail" in str(error.__cause__)


LEVELS = [None, "warm", "fresh", "thread"]
"""Of isolation; None is a call without limits."""


def at_level(fn, isolation, **limits):
    return fn if isolation is None else limit(fn, isolation=isolation, **limits)


@pytest.mark.parametrize("level", LEVELS)
def test_a_traceback_begins_with_the_users_own_function(executor, level):
    error = executor.submit(at_level(fail, level, wall_time=30), "lost").exception(timeout=30)
    if error.__cause__ is None:  # it was raised in this process
        text = "".join(traceback.format_exception(error))
    else:
        text = error.__cause__.text
    assert re.match(r'Traceback.*:\n  File ".*test_contract.py", line \d+, in fail\n', text), text
    assert "LookupError: lost" in text


@pytest.mark.parametrize("level", LEVELS[1:])
def test_the_stacks_of_a_breach_begin_with_the_users_own_function(executor, level):
    error = executor.submit(at_level(wait_on, level, wall_time=0.5)).exception(timeout=30)
    assert isinstance(error, exceptions.WallTimeBreach)
    assert re.match(
        r'Current thread .*:\n(  File ".*overdoing.py", line \d+ in wait_on\n?)+$', error.stacks
    ), error.stacks


def test_lambdas_closures_and_partials_run(executor):
    base = 40
    assert executor.submit(lambda x: base + x, 2).result(timeout=30) == 42
    assert executor.submit(functools.partial(pow, 2), 10).result(timeout=30) == 1024


async def awaited(text):
    import asyncio

    await asyncio.sleep(0.01)
    return fail(text) if text else os.getpid()


def test_a_coroutine_function_runs_to_its_end(executor, kind):
    for fn in (awaited, limit(awaited, wall_time=30), lambda text: awaited(text)):
        pid = executor.submit(fn, "").result(timeout=30)
        assert (pid != os.getpid()) == (kind.elsewhere or hasattr(fn, "limits"))
        error = executor.submit(fn, "lost").exception(timeout=30)
        assert (type(error), error.args) == (LookupError, ("lost",))
        assert error.__context__ is None
        assert "event loop" not in str(error.__cause__)


def test_a_coroutine_function_runs_to_its_end_when_it_is_submitted_from_a_coroutine(executor):
    import asyncio

    async def main():
        return await executor.submit(awaited, "")

    assert asyncio.run(main()) > 0


def test_equal_calls_each_run(executor, tmp_path):
    def leave_a_mark(directory):
        return os.urandom(8)

    futures = [executor.submit(leave_a_mark, str(tmp_path)) for _ in range(5)]
    assert len({future.result(timeout=30) for future in futures}) == 5


def test_a_call_with_a_limit_returns_raises_and_keeps_to_it(executor):
    assert executor.submit(limit(pow, wall_time=30), 2, 10).result(timeout=30) == 1024
    error = executor.submit(limit(fail, wall_time=30), "lost").exception(timeout=30)
    assert (type(error), error.args) == (LookupError, ("lost",))
    assert "in fail" in str(error.__cause__)


def test_a_breach_is_typed_costs_one_call_and_has_its_usage(executor):
    for _ in range(2):
        future = executor.submit(limit(time.sleep, wall_time=0.1), 60)
        error = future.exception(timeout=30)
        assert isinstance(error, exceptions.WallTimeBreach)
        assert error.call == "sleep"
        assert future.usage.wall_time >= 0.1
        assert executor.submit(abs, -1).result(timeout=30) == 1


def test_a_report_has_a_row_for_each_call(executor, kind):
    scheduler, began = Scheduler(executor), time.time()

    @scheduler.on_start
    def submit_all():
        scheduler.submit(abs, -1)
        scheduler.submit(limit(pow, memory="100 MiB", wall_time=30), 2, 10)
        scheduler.submit(limit(fail, wall_time=30), "lost")
        scheduler.submit(limit(wait_on, wall_time=0.5))
        scheduler.submit(limit(os._exit, wall_time=30), 3)
        scheduler.submit(limit(len, memory="900 TiB"), "")
        scheduler.submit(limit(time.sleep, wall_time=30), 1).cancel()

    scheduler.run(on_exception="continue", on_cancelled="continue")
    rows = {row.task: row for row in scheduler.report()}
    assert rows.pop("sleep").ending in ("cancelled", "returned")  # if it was done by then
    assert {task: (row.ending, row.cause) for task, row in rows.items()} == {
        "abs": ("returned", ""),
        "pow": ("returned", ""),
        "fail": ("raised", "LookupError: lost"),
        "wait_on": ("breach", "wall_time"),
        "_exit": ("exited", "exit code 3"),
        "len": ("refused", "memory"),
    }
    ran = [rows[task] for task in ("abs", "pow", "fail", "wait_on", "_exit")]
    for row in ran:
        assert began - 1 < row.submitted < row.ended < time.time() + 1
        assert row.submitted - 1 < row.started <= row.ended == row.started + row.wall_time
        assert row.attempts == 1
    assert len({row.key for row in rows.values()}) == len(rows)
    assert rows["fail"].where.endswith("in fail")
    assert re.fullmatch(r".*overdoing.py:\d+ in wait_on", rows["wait_on"].where)
    assert rows["wait_on"].wall_time >= 0.5
    assert (rows["pow"].memory_limit, rows["pow"].wall_time_limit) == (100 * 2**20, 30.0)
    assert rows["len"].started is None
    on_workers = [row for row in ran if row.worker]
    if kind.has_workers:
        assert on_workers == ran
    else:
        assert not on_workers


class Weighty:
    """What a caller would not have memory for if it were kept."""


class WeightyError(Exception):
    """One that can be referred to weakly, too."""


def weigh(given, ends):
    if ends == "raises":
        raise WeightyError(Weighty())
    if ends == "breaches":
        wait_on()
    return Weighty()


@pytest.mark.parametrize("ends", ["returns", "raises", "breaches"])
@pytest.mark.parametrize("level", LEVELS)
def test_what_a_call_has_taken_and_returned_goes_with_the_last_reference(
    executor, kind, level, ends
):
    if level is None and ends == "breaches":
        pytest.skip("there is no limit")
    if ends != "returns" and (level == "thread" or (level is None and not kind.elsewhere)):
        pytest.skip("the traceback has all the frames here, which have all the rest")
    there: list[weakref.ref[Any]] = []

    def call():
        given = Weighty()
        limits: dict[str, Any] = {"wall_time": 1 if ends == "breaches" else 30}
        if level != "thread":
            limits["memory"] = "1 GiB"
        future = executor.submit(at_level(weigh, level, **limits), given, ends)
        error = future.exception(timeout=60)
        of_call = future.result() if error is None else error
        wanted = {"returns": Weighty, "raises": WeightyError}
        assert isinstance(of_call, wanted.get(ends, exceptions.WallTimeBreach))
        there.extend(map(weakref.ref, (given, of_call, future)))

    gc.collect()
    gc.disable()  # whose next look may be far
    try:
        call()
        until(lambda: not [one for one in there if one() is not None], instead=lambda: there)
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("limits", "which", "asked"),
    [({"memory": "900 TiB"}, "memory", 900 * 2**40), ({"cores": 100_000}, "cores", 100_000)],
    ids=["memory", "cores"],
)
def test_what_can_never_be_reserved_is_refused_with_both_figures(executor, limits, which, asked):
    error = executor.submit(limit(abs, **limits), -1).exception(timeout=60)
    assert isinstance(error, exceptions.LimitRefusedError)
    assert (error.limit, error.asked, error.call) == (which, asked, "abs")
    assert 0 < error.most < asked
    call = limit(abs, **limits, reserve=False)
    assert executor.submit(call, -1).result(timeout=60) == 1


def test_a_crash_under_a_limit_costs_one_call(executor):
    for code in (3, 0):
        error = executor.submit(limit(os._exit, wall_time=30), code).exception(timeout=30)
        assert isinstance(error, exceptions.ExitError)
        assert error.exit_code == code
    assert executor.submit(abs, -1).result(timeout=30) == 1


def test_sys_exit_ends_only_the_call(executor):
    for fn in (sys.exit, limit(sys.exit, wall_time=30)):
        error = executor.submit(fn, 5).exception(timeout=30)
        assert isinstance(error, exceptions.ExitError)
        assert error.exit_code == 5
    assert executor.submit(abs, -1).result(timeout=30) == 1


def test_what_cannot_be_pickled_is_named(executor, kind):
    fns = [limit(call, wall_time=30)] + [call] * kind.elsewhere
    for fn in fns:
        error = executor.submit(fn, 1, threading.Lock()).exception(timeout=30)
        assert isinstance(error, exceptions.CallPicklingError)
        assert (error.part, error.call) == ("arguments", "call")
        assert "lock" in str(error)


def test_a_result_or_exception_that_cannot_be_pickled_is_named(executor, kind):
    under_limit = functools.partial(limit, wall_time=30)
    for wrap in [under_limit] + [lambda fn: fn] * kind.elsewhere:
        error = executor.submit(wrap(Unpicklable)).exception(timeout=30)
        assert isinstance(error, exceptions.CallPicklingError)
        assert error.part == "result"
        error = executor.submit(wrap(odd)).exception(timeout=30)
        assert isinstance(error, exceptions.CallPicklingError)
        assert error.part == "exception"


class NotesWhereItIsUnpickled:
    def __init__(self, directory):
        self.directory = directory

    def __setstate__(self, state):
        self.__dict__ = state
        (self.directory / str(os.getpid())).touch()


def test_the_result_of_a_limited_call_is_unpickled_where_it_is_read_and_nowhere_else(
    executor, tmp_path
):
    executor.submit(limit(NotesWhereItIsUnpickled, wall_time=30), tmp_path).result(timeout=30)
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]


class Changed:
    """A class of the script, with what calls and results could change of it."""

    number = 1

    def own(self):
        return type(self) is Changed


class Colour(enum.Enum):
    RED = 1


@dataclass
class Held:
    colour: Colour = Colour.RED
    of: Any = None


class HeldError(LookupError):
    pass


def results_of_own_classes(fails):
    if fails:
        raise HeldError(Held())

    class Sub(Changed):
        pass

    Changed.number += 1
    return Changed(), Sub(), Held(of=call), cached_here


@functools.cache
def cached_here():
    return Held


@pytest.mark.parametrize("level", LEVELS)
def test_results_have_the_callers_own_classes_which_stay_as_they_are(executor, kind, level):
    if level == "thread" or (level is None and not kind.elsewhere):
        pytest.skip("the call runs where these classes are")
    classes = Changed, Colour, Held, HeldError
    before = [dict(vars(cls)) for cls in classes]
    fn = at_level(results_of_own_classes, level, wall_time=30)
    for _ in range(2):
        made, sub, held, cached = executor.submit(fn, False).result(timeout=30)
        assert (type(made), type(sub).__base__, type(held)) == (Changed, Changed, Held)
        assert (held.colour, held.of, cached) == (Colour.RED, call, cached_here)
        assert made.own()
        error = executor.submit(fn, True).exception(timeout=30)
        assert type(error) is HeldError
        assert type(error.args[0]) is Held
    assert [dict(vars(cls)) for cls in classes] == before


@pytest.mark.parametrize("level", LEVELS)
def test_a_proxy_of_a_manager_can_be_an_argument_and_a_result(executor, kind, level):
    if kind.make is jobqueue:
        pytest.skip("jobs are not children of this process, and do not have its authkey")

    def put(queue):
        queue.put("here")
        return queue

    with multiprocessing.Manager() as manager:
        queue = manager.Queue()
        returned = executor.submit(at_level(put, level, wall_time=30), queue).result(timeout=30)
        assert [queue.get(timeout=30), returned.empty()] == ["here", True]


def raise_of_kind(kind):
    raise kind


class RaisesWhereItIsUnpickled:
    def __init__(self, kind):
        self.kind = kind

    def __reduce__(self):
        return raise_of_kind, (self.kind,)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
def test_what_a_result_raises_where_it_is_unpickled_is_the_error_of_its_call(executor, kind, error):
    calls = [RaisesWhereItIsUnpickled] * kind.elsewhere
    for fn in [limit(RaisesWhereItIsUnpickled, wall_time=30), *calls]:
        future = executor.submit(fn, error)
        assert isinstance(future.exception(timeout=30), exceptions.CallPicklingError)
        assert type(future.exception().__cause__) is error
        assert executor.submit(limit(abs, wall_time=30), -1).result(timeout=30) == 1


class RaisesWhereItIsPickled:
    def __init__(self, kind):
        self.kind = kind

    def __reduce__(self):
        raise self.kind("by the argument")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
def test_what_an_argument_raises_where_it_is_pickled_is_the_error_of_its_call(
    executor, kind, error
):
    for fn in [limit(type, wall_time=30), *[type] * kind.elsewhere]:
        future = executor.submit(fn, RaisesWhereItIsPickled(error))
        with pytest.raises(exceptions.CallPicklingError, match="by the argument"):
            future.result(timeout=30)
        assert executor.submit(limit(abs, wall_time=30), -1).result(timeout=30) == 1


def test_a_call_that_runs_under_a_limit_ends_when_it_is_cancelled(executor, kind, tmp_path):
    if not kind.ends_running:
        pytest.skip("this executor cannot end a call that runs")
    for n, fn in enumerate([limit(signal_and_wait, wall_time=600), signal_and_wait]):
        if n == 1 and not kind.ends_unlimited:
            continue
        futures = [executor.submit(fn, str(tmp_path / f"{n} {i}")) for i in range(2)]
        for i in range(2):
            wait_for(tmp_path / f"{n} {i}")
        assert all(future.cancel() for future in futures)
        assert all(future.cancelled() and future.cancel() for future in futures)
        assert executor.submit(abs, -1).result(timeout=30) == 1  # there is room again


def test_a_call_that_waits_never_runs_when_it_is_cancelled(executor, kind, tmp_path):
    if kind.make is SequentialExecutor:
        pytest.skip("nothing waits here")
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    # more than any of these pools takes in beforehand
    before = [executor.submit(wait_for, str(gate)) for _ in range(8)]
    waiting = executor.submit(Path.touch, mark)
    assert waiting.cancel()
    gate.touch()
    concurrent.futures.wait([*before, executor.submit(abs, 1)], timeout=30)
    assert waiting.cancelled()
    assert not mark.exists()


def test_a_future_can_be_awaited(executor):
    import asyncio

    async def main():
        return await executor.submit(pow, 2, 10)

    assert asyncio.run(main()) == 1024


def fail_at_first(mark, way):
    """Breach a limit or crash where there is no mark yet; later return how often it ran."""
    with Path(mark).open("a+") as marks:
        marks.write("x")
        marks.flush()
        marks.seek(0)
        n = len(marks.read())
    if n > 2:
        return n
    if way == "breach":
        subprocess.run(["sleep", "60"], check=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    return None


@pytest.mark.parametrize("way", ["breach", "crash"])
def test_a_call_that_is_retried_has_one_future_and_one_end(executor, tmp_path, way):
    scheduler = Scheduler(executor)
    limits = PynisherPlugin(process_limit=1)
    task = scheduler.task(fail_at_first, plugins=[limits, Retry(max_retries=2)])
    futures, seen = [], []
    scheduler.on_start(lambda: futures.append(task.submit(str(tmp_path / "mark"), way)))
    for event in task.emitter.events:
        task.on(event)(lambda future, *_, name=event.name: seen.append((name, future)))
    assert scheduler.run(timeout=50).code == "exhausted"
    [future] = futures
    assert (future.result(), future.attempts) == (3, 3)
    assert future.usage is not None
    kind = exceptions.ProcessBreach if way == "breach" else exceptions.CrashError
    assert [type(error) for error in future.earlier] == [kind] * 2
    names = ["on-submitted", "retry", "retry", "on-done", "on-result"]
    if isinstance(executor, SequentialExecutor):  # it has run before `submit` returns
        assert sorted(seen, key=str) == sorted(((name, future) for name in names), key=str)
    else:
        assert seen == [(name, future) for name in names]


def get_on(n):
    for i in range(n):
        progress({"step": i})
    return n


@pytest.mark.parametrize("level", LEVELS)
def test_what_a_call_reports_last_is_told_before_its_end(executor, kind, level):
    if not kind.tells:
        pytest.skip("this executor has no way for it")
    scheduler, seen = Scheduler(executor), []
    task = scheduler.task(at_level(get_on, level, wall_time=30))
    for event in task.emitter.events:
        task.on(event)(lambda *args, name=event.name: seen.append((name, *args)))
    scheduler.on_start(lambda: task.submit(1000))
    scheduler.run(timeout=50)
    [(_, future, n)] = [event for event in seen if event[0] == "on-submitted"]
    told = [event for event in seen if event[0] == "on-progress"]
    assert seen[-3:] == [told[-1], ("on-done", future), ("on-result", future, n)]
    assert told[-1] == ("on-progress", future, {"step": 999})
    steps = [value["step"] for _, _, value in told]
    assert steps == sorted(set(steps))


def report_and_wait(path):
    progress("here")
    wait_for(path)


@pytest.mark.parametrize("level", LEVELS)
def test_a_value_is_told_while_its_call_runs_on_and_reports_no_more(
    executor, kind, level, tmp_path
):
    if not kind.tells or kind.make is SequentialExecutor:
        pytest.skip("nothing is told while a call runs")
    scheduler, told = Scheduler(executor), []
    task = scheduler.task(at_level(report_and_wait, level, wall_time=60))
    scheduler.on_start(lambda: [task.submit(str(tmp_path / str(n))) for n in range(2)])
    futures = {}
    task.on_submitted(lambda future, path: futures.setdefault(future, path))

    @task.on_progress
    def let_it_end(future, value):
        told.append(value)
        Path(futures[future]).touch()

    scheduler.run(timeout=50)
    assert told == ["here", "here"]


def report_for_ever():
    n = 0
    while True:
        progress(n)
        n += 1
        time.sleep(0.001)


@pytest.mark.parametrize("level", ["clean", "warm", "fresh"])
def test_a_call_that_is_cancelled_because_of_what_it_reports_ends(executor, kind, level):
    if not kind.ends_running:
        pytest.skip("this executor cannot end a call that runs")
    scheduler, told = Scheduler(executor), []
    task = scheduler.task(limit(report_for_ever, wall_time=30, isolation=level))

    @scheduler.on_future_progress
    def prune(future, value):
        told.append(value)
        assert not future.cancelled()
        if len(told) == 3:
            future.cancel()

    scheduler.on_start(task.submit)
    cancelled = []
    task.on_cancelled(cancelled.append)
    scheduler.run(timeout=50, on_cancelled="continue")
    assert len(told) == 3
    assert told == sorted(set(told))
    assert len(cancelled) == 1
    assert executor.submit(abs, -1).result(timeout=30) == 1  # there is room again


def test_an_executor_without_a_way_for_progress_says_so_once(executor, kind, caplog):
    if kind.tells:
        pytest.skip("this one has a way")
    wrapped = WrappedExecutor(executor)  # the executor of the other tests may have said so
    scheduler = Scheduler(wrapped)
    scheduler.on_start(lambda: [scheduler.submit(get_on, 3) for _ in range(2)])
    scheduler.on_future_progress(lambda *_: pytest.fail("it was told"))
    scheduler.run(timeout=50)
    said = [record.message for record in caplog.records if "no way" in record.message]
    assert len(said) == 1
    assert repr(executor) in said[0]


def test_a_run_may_end_with_the_calls_that_run_and_drop_the_others(executor, kind, tmp_path):
    if kind.make is SequentialExecutor:
        pytest.skip("nothing waits here")
    scheduler, gate, path_of = Scheduler(executor), tmp_path / "gate", {}
    done, cancelled = [], []
    scheduler.on_future_done(done.append)
    scheduler.on_future_cancelled(cancelled.append)

    @scheduler.on_start
    def begin():
        for n in range(9):
            call = limit(note_and_wait_for, wall_time=60)
            path_of[scheduler.submit(call, str(tmp_path / str(n)), str(gate))] = str(n)

    @scheduler.on_finishing
    def open_gate_when_the_others_are_cancelled():
        # On Dask that takes some messages, and until then a worker that is free begins the next.
        threading.Timer(2, gate.touch).start()

    def stop_when_some_run():
        if sum(future.running() for future in scheduler.queue) >= 2:
            scheduler.stop()
        else:
            scheduler.call_later(0.05, stop_when_some_run)

    scheduler.on_start(stop_when_some_run)
    state = scheduler.run(timeout=50, wait="running")
    assert state.code == "stopped"
    assert len(done) + len(cancelled) == 9
    assert {future.result() for future in done} == {"done"}
    # These are all that ran; pools of others have taken in more beforehand.
    assert len(done) >= 2
    assert len(done) == 2 or not kind.ends_running
    assert {path.name for path in tmp_path.iterdir()} == {"gate", *map(path_of.get, done)}
    assert executor.submit(abs, -1).result(timeout=30) == 1  # there is room again


def note_and_wait_for(path, gate):
    Path(path).touch()
    wait_for(gate)
    return "done"


def children_of(process):
    import psutil

    try:
        return process.children()
    except psutil.NoSuchProcess:
        return []


def test_after_its_shutdown_it_takes_nothing_and_has_left_nothing(kind):
    import psutil

    def relatives(others=frozenset()):
        found, level = set(), psutil.Process().children()
        while level:
            level = {
                one
                for one in set(level) - others
                if not {"resource_tracker", "forkserver"} & set(command(one.pid).split("."))
            }
            found |= level
            level = [child for one in level for child in children_of(one)]
        return found

    close_default_guardian()  # else it may start a task process meanwhile
    before = relatives()
    executor = kind.make()
    futures = [executor.submit(time.sleep, 0.05) for _ in range(2)]
    executor.shutdown(wait=True)
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError):
        executor.submit(abs, 1)
    executor.shutdown()
    # Not what is below others: the executor of the other tests gets its next task process ready.
    _, alive = psutil.wait_procs(relatives(before), timeout=60)
    assert not [p for p in alive if "resource_tracker" not in command(p.pid)]


def note_and_wait(path):
    """A call that says who it is, has a child that is detached, and takes its time."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
        os._exit(0)
    Path(path).with_suffix(".part").write_text(str(os.getpid()))
    Path(path).with_suffix(".part").rename(path)
    time.sleep(600)


def test_when_its_program_is_killed_nothing_is_left(request, kind, tmp_path):
    import psutil

    name = request.node.callspec.params["kind"]
    program = textwrap.dedent(
        f"""
        import sys, time
        sys.path[:] = {sys.path!r}
        if __name__ == "__main__":  # which pools and Dask import again
            import test_contract
            from dask_limits import limit
            executor = test_contract.EXECUTORS[{name!r}].make()
            for n in range(2):
                call = limit(test_contract.note_and_wait, wall_time=600)
                executor.submit(call, f"{tmp_path}/{{n}}")
            time.sleep(600)
        """
    )
    (tmp_path / "program.py").write_text(program)
    notes = [tmp_path / str(n) for n in range(2 if kind.make is not SequentialExecutor else 1)]
    with psutil.Popen([sys.executable, tmp_path / "program.py"]) as driver:
        until(lambda: all(note.exists() for note in notes))
        below = {p.pid for p in driver.children(recursive=True)}
        driver.kill()
    all_gone(below | {int(note.read_text()) for note in notes})
