"""Calls that share a process and the way there: each is by itself all the same."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
import threading
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

import cloudpickle
import psutil
import pytest
from kinds import KINDS
from own_notes import own_notes
from processes import until

from dask_limits import exceptions, limit
from dask_limits.executors.processes import ProcessExecutor
from dask_limits.limits import CancelToken, Limits
from dask_limits.limits.ipc import messages, task_cells, transport
from dask_limits.limits.owner.connection import Connection
from dask_limits.limits.owner.group import Call, Group
from dask_limits.limits.owner.steps import drive

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest

MIB = 2**20
LONG = Limits(wall_time=60)
WARM = Limits(wall_time=60, isolation="warm")


@pytest.fixture
def ran(tmp_path):
    """Where calls note that they have begun, by a number each."""
    file = tmp_path / "ran"
    file.touch()
    return file


def note(file, number):
    with Path(file).open("a") as lines:
        lines.write(f"{number}\n")


def numbers_in(file):
    return [int(line) for line in file.read_text().split()]


def do_one(file, things, number):
    """A call by its number, the same function for all: most only note that they have begun."""
    note(file, number)
    if (thing := things.get(number)) is not None:
        thing()
    return number


class Told(Call):
    """A call that notes how often it has ended."""

    ends = 0

    def end(self, outcome):
        self.ends += 1
        super().end(outcome)

    @property
    def result(self):
        return self.outcome.unpack({}).result()

    @property
    def error(self):
        return self.outcome.unpack({}).exception


class Run:
    """Calls of `do_one`, which all have one group; what is given back or left, another one."""

    def __init__(self, guardian, file, count, things, limits):
        self.tokens = [CancelToken() for _ in range(count)]
        self.calls = [
            Told(do_one, (file, things, n), {}, limits, self.tokens[n]) for n in range(count)
        ]
        self._guardian = guardian

    def go(self):
        """Run all to their end."""
        self.go_on(self.calls)
        assert [call.ends for call in self.calls] == [1] * len(self.calls)

    def go_on(self, calls):
        """Run these to their end."""
        while calls:
            calls = self.go_once(calls)

    def go_once(self, calls):
        """Run as many as one process runs, and return the others."""
        others = []
        group = Group(calls, others.extend)
        drive(self._guardian.steps(group))
        return [*group.calls, *others]

    def started_once(self):
        """Run as many as one process runs, in a thread."""
        thread = Once(self._guardian, self.calls)
        thread.start()
        return thread

    def started(self):
        """Run all in a thread, which has begun by then."""
        thread = threading.Thread(target=self.go)
        thread.start()
        return thread


class Once(threading.Thread):
    """Runs as many calls as one process runs.

    Attributes:
        taken_back: Those that were given back while another one runs.
    """

    def __init__(self, guardian, calls):
        self.taken_back = []
        self._group = Group(calls, self.taken_back.extend)
        super().__init__(target=drive, args=(guardian.steps(self._group),))

    @property
    def left(self):
        """When it has ended, the others that have not."""
        return [*self._group.calls]


@pytest.fixture
def begin(guardian, ran):
    """Makes a run of so many calls, some of which do something, in a process that is warm."""

    def begin(count, things=None, limits=WARM):
        Run(guardian, os.devnull, 1, {}, limits).go()
        return Run(guardian, ran, count, things or {}, limits)

    return begin


@pytest.fixture
def run(begin, ran):
    """Runs such calls to their end. Each has begun once."""

    def run(*args):
        made = begin(*args)
        made.go()
        assert sorted(numbers_in(ran)) == list(range(len(made.calls)))
        return made

    return run


@pytest.mark.parametrize("limits", [LONG, WARM], ids=["clean", "warm"])
def test_each_call_has_its_own_end(run, limits):
    def fail():
        raise ValueError("its own")

    done = run(8, {3: fail, 5: sys.exit}, limits)
    assert isinstance(done.calls[3].error, ValueError)
    assert isinstance(done.calls[5].error, exceptions.ExitError)
    assert [done.calls[n].result for n in (0, 1, 2, 4, 6, 7)] == [0, 1, 2, 4, 6, 7]


def test_each_call_has_its_own_usage(run):
    def use_memory():
        block = mmap.mmap(-1, 50 * MIB)
        block.write(b"1" * 50 * MIB)

    done = run(6, {2: use_memory, 4: lambda: time.sleep(0.002)})
    usages = [call.outcome.usage for call in done.calls]
    assert usages[2].peak_memory > 50 * MIB
    assert all(usage.peak_memory < 25 * MIB for n, usage in enumerate(usages) if n != 2)
    assert usages[4].wall_time >= 0.002


def sleep_long():
    time.sleep(60)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_breach_is_that_of_its_call_alone(run, kind):
    done = run(6, {2: kind.over}, Limits(**kind.reached, isolation="warm"))
    assert isinstance(done.calls[2].error, kind.breach)
    assert [done.calls[n].result for n in (0, 1, 3, 4, 5)] == [0, 1, 3, 4, 5]


def test_a_crash_is_that_of_its_call_alone(run):
    done = run(6, {2: lambda: os.kill(os.getpid(), signal.SIGSEGV)})
    assert isinstance(done.calls[2].error, exceptions.CrashError)
    assert [done.calls[n].result for n in (0, 1, 3, 4, 5)] == [0, 1, 3, 4, 5]


def waits_for(file):
    def wait():
        while not file.exists():
            time.sleep(0.01)

    return wait


def test_calls_behind_a_long_one_run_while_it_does(begin, ran, tmp_path):
    run = begin(6, {2: waits_for(tmp_path / "go on")})
    first = run.started_once()
    until(lambda: first.taken_back or not first.is_alive())
    run.go_on(first.taken_back)
    (tmp_path / "go on").touch()
    first.join()
    run.go_on(first.left)
    assert sorted(numbers_in(ran)) == list(range(6))
    assert [call.result for call in run.calls] == list(range(6))


def test_a_cancel_takes_back_a_call_that_has_not_begun(begin, ran, tmp_path):
    run = begin(4, {0: waits_for(tmp_path / "go on")})
    first = run.started_once()
    until(lambda: numbers_in(ran) == [0])
    run.tokens[2].cancel()
    until(lambda: first.taken_back)
    (tmp_path / "go on").touch()
    first.join()
    run.go_on(first.taken_back + first.left)
    assert isinstance(run.calls[2].error, exceptions.CallCancelledError)
    assert sorted(numbers_in(ran)) == [0, 1, 3]
    assert [run.calls[n].result for n in (0, 1, 3)] == [0, 1, 3]


def test_a_cancel_ends_the_call_that_runs_alone(begin, ran):
    run = begin(4, {1: sleep_long})
    thread = run.started()
    until(lambda: 1 in numbers_in(ran))
    run.tokens[1].cancel()
    thread.join()
    assert isinstance(run.calls[1].error, exceptions.CallCancelledError)
    assert sorted(numbers_in(ran)) == [0, 1, 2, 3]
    assert [run.calls[n].result for n in (0, 2, 3)] == [0, 2, 3]


def leave_a_thread():
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()


def test_calls_go_elsewhere_when_a_process_is_unfit(run):
    done = run(6, {2: leave_a_thread})
    assert [call.result for call in done.calls] == list(range(6))


def test_calls_go_elsewhere_when_a_clean_process_has_run_for_long(begin):
    def take_some_time():  # less than the guardian needs to give calls back
        end = time.perf_counter() + 0.25
        while time.perf_counter() < end:
            pass

    run = begin(4, {0: take_some_time}, LONG)
    assert len(run.go_once(run.calls)) == 3


def test_calls_come_back_to_the_process_in_which_the_first_has_imported_their_module(
    guardian, module
):
    text = """
        import os, time
        time.sleep(0.5)
        def answer():
            return os.getpid()
    """
    fn = import_module(module("slow", text)).answer
    calls = [Told(fn, (), {}, LONG) for _ in range(4)]
    Run(guardian, os.devnull, 0, {}, LONG).go_on(calls)
    assert len({call.result for call in calls}) == 1


def test_calls_go_elsewhere_when_earlier_ones_have_left_memory(begin):
    def keep_memory():
        sys.modules["kept"] = bytearray(b"1") * (60 * MIB)

    run = begin(5, {0: keep_memory}, Limits(memory="100 MiB", isolation="warm"))
    assert len(run.go_once(run.calls)) == 4


def test_a_process_gets_no_more_calls_than_it_may_have(tmp_path):
    pids = tmp_path / "pids"

    def note_pid():
        note(pids, os.getpid())

    with ProcessExecutor(2, max_calls_per_process=3) as pool:
        for _ in range(4):
            for future in [pool.submit(limit(note_pid, wall_time=60)) for _ in range(25)]:
                future.result(timeout=60)
    found = Counter(numbers_in(pids))
    assert sum(found.values()) == 100
    assert max(found.values()) <= 3


def test_short_calls_of_a_pool_come_to_share_requests(monkeypatch):
    sizes = []

    def begin(self, lease, group, setting, begin=Connection.begin):
        sizes.append(len(group.calls))
        return begin(self, lease, group, setting)

    monkeypatch.setattr(Connection, "begin", begin)
    with ProcessExecutor(1) as pool:

        def share():
            futures = [pool.submit(limit(abs, wall_time=60), -n) for n in range(40)]
            assert [future.result(timeout=60) for future in futures] == list(range(40))
            return max(sizes) > 1

        until(share)


def test_each_call_is_told_once_when_the_guardian_is_killed(guardian, begin, ran):
    run = begin(6, {2: sleep_long})
    thread = run.started()
    until(lambda: 2 in numbers_in(ran))
    for process in psutil.Process(guardian._connection.pid).children():
        process.kill()
    thread.join()
    assert isinstance(run.calls[2].error, exceptions.GuardianLostError)
    assert [run.calls[n].result for n in (0, 1, 3, 4, 5)] == [0, 1, 3, 4, 5]
    assert sorted(numbers_in(ran)) == list(range(6))


def pass_for_the_next():
    cells = own_notes()[0]
    cells[task_cells.ANSWERED] = cells[task_cells.CALL]
    time.sleep(60)


def pass_for_the_next_and_not():
    cells = own_notes()[0]
    call = cells[task_cells.CALL]
    while True:
        for n in range(4):
            cells[task_cells.ANSWERED] = call - 1 + n
            time.sleep(0.003)


def pass_for_one_after_the_other():
    cells = own_notes()[0]
    while True:
        cells[task_cells.ANSWERED] += 1
        time.sleep(0.02)


@pytest.mark.parametrize(
    "lie",
    [pass_for_the_next, pass_for_the_next_and_not, pass_for_one_after_the_other],
    ids=lambda lie: lie.__name__,
)
def test_no_call_lifts_its_limit_by_passing_for_another_one(run, lie):
    start = time.monotonic()
    done = run(40, {2: lie}, Limits(wall_time=0.5, isolation="warm"))
    assert time.monotonic() - start < 60  # as long as it sleeps
    assert isinstance(done.calls[2].error, exceptions.CallError)


def test_calls_of_other_limits_or_with_output_share_nothing():
    def call(**limits):
        return Call(abs, (1,), {}, Limits(**limits))

    assert call(wall_time=5).shares
    assert call(wall_time=5).goes_with(call(wall_time=5))
    assert not call(wall_time=5).goes_with(call(wall_time=6))
    assert not call(wall_time=5).goes_with(Call(max, (1, 2), {}, Limits(wall_time=5)))
    assert not call(wall_time=5, capture_output=True).shares
    assert not call(wall_time=5, grace_period=1).shares
    assert not call(wall_time=5, isolation="fresh").shares
    assert not call(wall_time=5, isolation="thread").shares


def test_calls_that_cannot_be_pickled_or_are_large_are_no_burden_for_others(guardian, ran):
    limits = WARM
    large = bytes(200 * 1024)
    calls = [
        Told(len, (b"1",), {}, limits),
        Told(len, (threading.Lock(),), {}, limits),
        Told(len, (b"12",), {}, limits),
        Told(len, (large,), {}, limits),
        Told(len, (b"123",), {}, limits),
    ]
    rest = calls
    while rest:
        others = []
        group = Group(rest, others.extend)
        drive(guardian.steps(group))
        rest = [*group.calls, *others]
    assert isinstance(calls[1].error, exceptions.CallPicklingError)
    assert [call.result for call in calls if call is not calls[1]] == [1, 2, len(large), 3]
    assert [call.ends for call in calls] == [1] * 5


def test_ctrl_c_leaves_no_file_of_a_group(guardian):
    """The handler of a signal raises while calls are packed."""

    class Interrupting:
        def __reduce__(self):
            raise KeyboardInterrupt

    drive(guardian.steps(Group([Told(len, (b"1",), {}, WARM)])))
    before = psutil.Process().num_fds()
    with contextlib.suppress(KeyboardInterrupt):
        large = bytes(200 * 1024)
        calls = [Told(len, (part,), {}, WARM) for part in (large, Interrupting())]
        drive(guardian.steps(Group(calls, [].extend)))
    assert psutil.Process().num_fds() == before


def test_a_call_that_says_that_it_was_skipped_costs_no_other(run):
    """It is not run again and again, and the others are not refused."""

    def skip_itself():
        frame = sys._getframe()
        while frame.f_code.co_name != "_run_one":
            frame = frame.f_back
        own = frame.f_locals
        transport.send(own["self"]._sock, messages.SKIPPED, own["number"])

    done = run(4, {0: skip_itself}, LONG)
    assert isinstance(done.calls[0].error, exceptions.CrashError)
    assert [done.calls[n].result for n in (1, 2, 3)] == [1, 2, 3]


def test_a_call_that_has_said_that_later_ones_are_answered_costs_no_other(begin, guardian, ran):
    def write_and_wait():
        own_notes()[0][task_cells.ANSWERED] = 2**62
        time.sleep(0.1)  # for as long as the guardian looks

    begin(1, {0: write_and_wait}).go()
    run = Run(guardian, ran, 5, {0: lambda: time.sleep(0.05)}, WARM)
    run.go()
    assert [call.result for call in run.calls] == list(range(5))
