"""Limits on one machine are reservations: they never sum up to more than it has."""

from __future__ import annotations

import functools
import os
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from kinds import REACHED_S
from lines import at_line
from machine import GIB, of_size
from noting import meet, note, wait_for
from processes import until

from dask_limits import LimitedExecutor, Limits, PynisherPlugin, Scheduler, limit
from dask_limits.exceptions import CallCancelledError, LimitRefusedError
from dask_limits.executors.processes import ProcessExecutor
from dask_limits.limits import LimitedCall, run_call
from dask_limits.limits.cancel import CancelToken


@pytest.fixture
def folder(tmp_path):
    return tmp_path


@pytest.fixture
def account(folder):
    """That of a machine with 8 GiB and 4 cores."""
    with of_size(folder) as account:
        yield account
        assert not (account._held or account._waiting or account._memory or account._cores)


@pytest.fixture
def pool(account):
    with ProcessExecutor(6) as executor:
        yield executor


def most_at_once(file):
    """The most that the numbers of calls summed up to which ran at one time."""
    lines = [line.split() for line in file.read_text().splitlines()]
    changes = [
        (float(at), s * int(n)) for n, *when in lines for s, at in zip((1, -1), when, strict=True)
    ]
    total = most = 0
    for _, change in sorted(changes):
        total += change
        most = max(most, total)
    return most


def begun_before(file, name, since):
    """How many calls have begun after this time, and before the one of this name."""
    begun = [(float(line.split()[1]), line.split()[0]) for line in file.read_text().splitlines()]
    (end,) = (at for at, what in begun if what == name)
    return sum(since < at < end for at, _ in begun)


def times_of_end(future):
    """When it ends, as soon as it has."""
    times = []
    future.add_done_callback(lambda _: times.append(time.monotonic()))
    return times


def waits(account):
    return len(account._waiting)


def test_memory_limits_never_sum_up_to_more_than_the_machine_has(pool, folder):
    rng, notes = random.Random(3), folder / "notes"
    sizes = [rng.choice([1, 1, 2, 3, 5, 8]) for _ in range(40)]
    calls = [(limit(note, memory=size * GIB), size) for size in sizes]
    futures = [pool.submit(call, notes, str(size)) for call, size in calls[:30]]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda one: one[0](notes, str(one[1])), calls[30:]))
    wait(futures)
    assert len(notes.read_text().splitlines()) == 40
    assert 5 <= most_at_once(notes) <= 8


def test_what_fits_runs_at_the_same_time(pool, folder):
    call = limit(meet, memory="2 GiB", wall_time=60)
    wait([pool.submit(call, folder / "four", str(n), 4) for n in range(4)])
    assert len(list((folder / "four").iterdir())) == 4


def test_cores_are_reserved_by_calls_that_name_them(pool, folder):
    notes = folder / "notes"
    futures = [pool.submit(limit(note, cores=n), notes, str(n)) for n in [1, 2, 3, 4] * 4]
    assert [future.result(timeout=60) for future in futures] == [None] * 16
    assert most_at_once(notes) <= 4
    meeting = [pool.submit(limit(meet, cores=2), folder / "m", str(n), 6) for n in range(2)]
    meeting += [pool.submit(meet, folder / "m", str(n), 6) for n in range(2, 6)]
    wait(meeting)  # those that name none have all the processes that there are


def test_a_large_call_waits_while_small_ones_pass_and_starts_all_the_same(pool, account, folder):
    blocker = pool.submit(limit(wait_for, memory="6 GiB"), folder / "go", folder / "begun")
    until((folder / "begun").exists)
    large = pool.submit(limit(note, memory="7 GiB"), folder / "notes", "large")
    small = limit(note, memory="1 GiB")
    wait([pool.submit(small, folder / "notes", "small") for _ in range(5)])
    assert not (large.running() or large.done())
    freed = times_of_end(blocker)
    (folder / "go").touch()
    more = [pool.submit(small, folder / "notes", "more") for _ in range(60)]
    wait([blocker, large, *more])
    order = [line.split()[0] for line in (folder / "notes").read_text().splitlines()]
    assert order[:5] == ["small"] * 5
    # Although there was always one that would fit. The blocker may take long to end.
    assert begun_before(folder / "notes", "large", freed[0]) < 25


def test_calls_that_fill_all_processes_do_not_starve_a_large_one(account, folder):
    with ProcessExecutor(3) as pool:
        go = folder / "go"
        blocker = pool.submit(limit(wait_for, memory="2 GiB"), go, folder / "begun")
        until((folder / "begun").exists)
        large = pool.submit(limit(note, memory="7 GiB"), folder / "notes", "large")
        small = limit(note, memory="1 GiB")
        futures = [pool.submit(small, folder / "notes", "small") for _ in range(40)]
        until(lambda: sum(future.done() for future in futures) > 5)
        freed = times_of_end(blocker)
        go.touch()
        wait([large, blocker, *futures])
    assert begun_before(folder / "notes", "large", freed[0]) < 25


@pytest.mark.parametrize(
    ("limits", "which", "asked", "most", "text"),
    [
        ({"memory": "9 GiB"}, "memory", 9 * GIB, 8 * GIB, r"9\.0 GiB .* has 8\.0 GiB"),
        ({"cores": 5}, "cores", 5, 4, "5 cores, but this machine has 4"),
    ],
    ids=["memory", "cores"],
)
def test_what_never_fits_is_refused_with_both_figures(pool, limits, which, asked, most, text):
    call = limit(abs, **limits)
    errors = [pool.submit(call, -1).exception(timeout=60), call.run(-1).exception]
    with LimitedExecutor(1, **limits) as executor:
        errors.append(executor.submit(abs, -1).exception(timeout=60))
    with pytest.raises(LimitRefusedError, match=text):
        Scheduler.with_processes(1).check_limits(Limits(**limits), "abs")
    for error in errors:
        assert isinstance(error, LimitRefusedError)
        assert (error.limit, error.asked, error.most, error.call) == (which, asked, most, "abs")
        with pytest.raises(LimitRefusedError, match=rf"abs\(\) reserves {text}.*reserve=False"):
            raise error


def test_with_reserve_false_nothing_is_reserved_or_refused(account, folder):
    more = {"memory": "9 GiB", "reserve": False}
    assert limit(abs, **more)(-1) == 1
    with LimitedExecutor(2, **more) as executor:
        wait([executor.submit(meet, folder / "two", str(n), 2) for n in range(2)])
    with LimitedExecutor(1, memory="9 GiB", options={"reserve": False}) as executor:
        assert executor.submit(abs, -2).result(timeout=60) == 2
    without = Scheduler.with_processes(1, reserve=False)
    without.check_limits(Limits(memory="9 GiB"))
    for scheduler, limits in [
        (without, PynisherPlugin(memory="9 GiB")),
        (Scheduler.with_processes(1), PynisherPlugin(**more)),
    ]:
        results = []
        task = scheduler.task(abs, plugins=limits)
        scheduler.on_start(lambda task=task: task.submit(-3))
        task.on_result(lambda _, result, results=results: results.append(result))
        scheduler.run()
        assert results == [3]
    with pytest.raises(TypeError, match="reserve='no' is of type str"):
        Limits(reserve="no")
    with pytest.raises(TypeError, match="reserve=1 is of type int"):
        Scheduler.with_processes(1, reserve=1)


def test_calls_in_their_callers_thread_reserve_nothing(account):
    assert limit(abs, memory="9 GiB", isolation="thread")(-1) == 1


def test_the_time_that_a_call_waits_does_not_count(pool, account, folder):
    blocker = pool.submit(limit(wait_for, memory="8 GiB"), folder / "go", folder / "begun")
    until((folder / "begun").exists)
    short = pool.submit(limit(abs, memory="1 GiB", wall_time=REACHED_S), -1)
    until(lambda: waits(account))
    time.sleep(1.1 * REACHED_S)
    (folder / "go").touch()
    assert short.result(timeout=60) == 1
    blocker.result(timeout=60)


def test_a_waiting_call_can_be_cancelled(pool, account, folder):
    blocker = pool.submit(limit(wait_for, memory="5 GiB"), folder / "go", folder / "begun")
    until((folder / "begun").exists)
    in_pool = [pool.submit(limit(abs, memory="4 GiB"), -n) for n in range(3)]
    token, outcomes = CancelToken(), []
    call = LimitedCall(abs, Limits(memory="6 GiB"))
    thread = threading.Thread(target=lambda: outcomes.append(run_call(call, (-1,), {}, token)))
    thread.start()
    until(lambda: waits(account) == 2)  # of those in the pool, one
    token.cancel()
    thread.join()
    assert isinstance(outcomes[0].exception, CallCancelledError)
    assert all(future.cancel() for future in in_pool)
    until(lambda: not waits(account))
    (folder / "go").touch()
    blocker.result(timeout=60)


def test_shutdown_ends_calls_that_wait(account, folder):
    with ProcessExecutor(2) as other:
        blocker = other.submit(limit(wait_for, memory="8 GiB"), folder / "go", folder / "begun")
        until((folder / "begun").exists)
        pool = ProcessExecutor(2)
        futures = [pool.submit(limit(abs, memory=GIB * n), -1) for n in (1, 2, 2)]
        until(lambda: waits(account) == 2)
        pool.shutdown(cancel_futures=True)
        assert all(future.cancelled() for future in futures)
        (folder / "go").touch()
        blocker.result(timeout=60)


def test_a_run_ends_in_time_while_calls_wait(account, folder):
    with ProcessExecutor(1) as other:
        blocker = other.submit(limit(wait_for, memory="8 GiB"), folder / "go", folder / "begun")
        until((folder / "begun").exists)
        scheduler = Scheduler.with_processes(2)
        task = scheduler.task(abs, plugins=PynisherPlugin(memory="1 GiB"))
        scheduler.on_start(lambda: [task.submit(-n) for n in range(3)])
        scheduler.run(timeout=0.3, wait=False)
        assert not waits(account)
        (folder / "go").touch()
        blocker.result(timeout=60)


def test_thousands_of_calls_wait_and_all_run(pool, account):
    futures = [pool.submit(limit(abs, memory=5 * GIB + n % 100), -n) for n in range(1000)]
    futures += [pool.submit(limit(abs, memory="6 GiB"), -n) for n in range(1000, 3000)]
    assert [future.result(timeout=120) for future in futures] == list(range(3000))


def test_a_callback_may_call_a_limited_function_while_others_hold_everything(pool, folder):
    # It runs in the thread that takes the steps of those calls: if it waited, none would end.
    called = []
    blocker = pool.submit(limit(wait_for, memory="7 GiB"), folder / "go", folder / "begun")
    until((folder / "begun").exists)
    first = pool.submit(limit(abs, memory="1 GiB"), -1)
    first.add_done_callback(lambda _: called.append(limit(abs, memory="8 GiB")(-2)))
    until(lambda: called == [2])
    (folder / "go").touch()
    blocker.result(timeout=60)


# -- calls within calls --------------------------------------------------------------------------

_CALL = """
from dask_limits import limit
print(limit(abs, memory="8 GiB")(-3))
"""


def calls_within(memory):
    return limit(abs, memory=memory)(-3)


def starts_a_program():
    import subprocess
    import sys

    return int(subprocess.check_output([sys.executable, "-c", _CALL], text=True))


def forks():
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(calls_within, ("8 GiB",))


@pytest.mark.parametrize(
    "call", [functools.partial(calls_within, "8 GiB"), starts_a_program, forks]
)
def test_a_limited_call_in_a_limited_call_does_not_wait_for_what_that_one_holds(
    pool, account, call, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    outer = [pool.submit(limit(call, memory="4 GiB"), *()) for _ in range(2)]
    assert [future.result(timeout=60) for future in outer] == [3, 3]


def reserves_in_a_call(size):
    from machine import MACHINE

    from dask_limits.limits.owner.account import account_here

    account_here()._capacity = MACHINE
    return type(limit(abs, memory=size).run(-3).exception).__name__


def test_a_limited_call_in_one_that_has_reserved_nothing_reserves(pool):
    plain = pool.submit(reserves_in_a_call, "9 GiB")
    limited = pool.submit(limit(reserves_in_a_call, wall_time=60), "9 GiB")
    reserving = pool.submit(limit(reserves_in_a_call, memory="1 GiB"), "9 GiB")
    assert plain.result(timeout=60) == limited.result(timeout=60) == "LimitRefusedError"
    assert reserving.result(timeout=60) == "NoneType"


# -- interrupts ----------------------------------------------------------------------------------


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("quickly", [True, False])
def test_ctrl_c_anywhere_leaves_nothing_reserved(account, quickly):
    call, n, found = limit(abs, memory="5 GiB"), 0, True
    files = [f"limits/owner/{name}.py" for name in ("account", "other_programs", "reserving")]
    while found:
        n += 1
        assert call(-1) == 1
        if not quickly:
            account._others.leave()  # the next call has to look for other programs
        try:
            found = at_line(n, interrupt, lambda: call(-2), *files)
        except KeyboardInterrupt:
            pass
        assert not (account._held or account._waiting)
        assert call(-3) == 3
        assert (account._memory, account._cores) == (0, 0)
    assert n > 30
