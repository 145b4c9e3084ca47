"""A `LimitedExecutor` with a journal: what has ended in an earlier program comes back."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from processes import all_gone, start_sleeping, until, wait_for, written_pid
from small_disk import lines_on_small_disk

from dask_limits import Journal, LimitedExecutor, SequentialExecutor, exceptions, limit
from dask_limits.exceptions import JournalError
from dask_limits.journal.store import Store

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.sqlite"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


@contextmanager
def on_a_pool(make: Callable[[int], Any], **given: Any) -> Iterator[LimitedExecutor]:
    with make(2) as pool, LimitedExecutor(pool, **given) as executor:
        yield executor


WHERE: dict[str, Callable[..., Any]] = {
    "processes": partial(LimitedExecutor, 2),
    "threads": partial(on_a_pool, ThreadPoolExecutor),
    "stdlib processes": partial(on_a_pool, ProcessPoolExecutor),
    "sequential": lambda **given: LimitedExecutor(SequentialExecutor(), **given),
    "dask": partial(LimitedExecutor, "dask", options={"n_workers": 1, "memory_limit": None}),
}
everywhere = pytest.mark.parametrize("make", WHERE.values(), ids=WHERE)
ENDS_RUNNING = {"processes", "threads", "dask"}


def note(folder: Path, n: int) -> int:
    """A call that leaves a line for each time it has run."""
    with (folder / f"{n}").open("a") as lines:
        lines.write("ran\n")
    if n % 5 == 3:
        raise LookupError(n)
    return n * n


def times_run(folder: Path) -> list[int]:
    return sorted(len(file.read_text().split()) for file in folder.iterdir())


def n_rows(file: Path) -> int:
    with sqlite3.connect(file) as connection:
        return int(connection.execute("SELECT count(*) FROM calls").fetchone()[0])


@contextmanager
def held_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Nothing is written until this is over; the event says that something is to be."""
    add, writes, go = Store.add, threading.Event(), threading.Event()

    def slow(*args: Any) -> None:
        writes.set()
        assert go.wait(60)
        add(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", staticmethod(slow))
        try:
            yield writes
        finally:
            go.set()


@everywhere
def test_what_has_ended_comes_back_and_what_is_missing_runs(make, file, notes) -> None:
    """With its exception and its usage, as a row of the report."""

    def run(n_calls: int) -> tuple[list[Any], list[Any]]:
        with make(journal=file, wall_time=60) as executor:
            futures = [executor.submit(note, notes, n) for n in range(n_calls)]
            wait(futures)
            return futures, [*executor.report()]

    first, rows = run(5)
    again, rows_again = run(8)
    assert times_run(notes) == [1] * 8
    assert [future.from_journal for future in first] == [False] * 5
    assert [future.from_journal for future in again] == [True] * 5 + [False] * 3
    for future, n in zip(again, range(8), strict=True):
        if n % 5 == 3:
            assert repr(future.exception()) == f"LookupError({n})"
        else:
            assert future.result() == n * n
    for one, other in zip(first, again, strict=False):
        about = [(f.usage, f.key, f.attempts, f.worker, f.submitted_at) for f in (one, other)]
        assert about[0] == about[1]
        assert one.usage is not None
    keys = {row.key for row in rows}
    assert keys == {row.key for row in rows_again if row.key in keys}
    assert {row.key for row in Journal(file).report()} == {row.key for row in rows_again}


@everywhere
def test_map_takes_up_where_it_was(make, file, notes) -> None:
    def run() -> list[int]:
        with make(journal=file, wall_time=60) as executor:
            return list(executor.map(note, itertools.repeat(notes), [0, 1, 2, 5, 6]))

    assert run() == run() == [0, 1, 4, 25, 36]
    assert times_run(notes) == [1] * 5
    assert n_rows(file) == 5


def test_map_in_processes_takes_no_more_items_than_are_wanted(file, notes) -> None:
    def first(n: int) -> tuple[list[int], int]:
        taken = itertools.count()
        items = (item for item in itertools.count() if item % 5 != 3 and next(taken) >= 0)
        with LimitedExecutor(2, journal=file) as executor:
            mapped = executor.map(note, itertools.repeat(notes), items)
            found = list(itertools.islice(mapped, n))
            mapped.close()
        return found, next(taken)

    for _ in range(2):
        found, n_taken = first(400)
        assert found == [n * n for n in range(500) if n % 5 != 3]
        assert 400 <= n_taken < 20_000
    assert all((notes / f"{n}").read_text() == "ran\n" for n in range(500) if n % 5 != 3)


def test_a_future_is_told_when_its_call_is_on_the_disk(file, monkeypatch) -> None:
    """Until then it runs; it cannot be cancelled, as it may be on the disk already."""
    told: list[int] = []
    with LimitedExecutor(1, journal=file) as executor:
        with held_back(monkeypatch) as writes:
            future = executor.submit(abs, -3)
            future.add_done_callback(lambda _: told.append(n_rows(file)))
            assert writes.wait(60)
            assert not future.done()
            assert future.running()
            assert not future.cancel()
            with pytest.raises(TimeoutError):
                future.result(timeout=0.05)
            assert not [*as_completed_by_now([future])]
            assert not told
        assert asyncio.run(awaited(future)) == 3
    assert told == [1]


def as_completed_by_now(futures: list[Any]) -> Iterator[Any]:
    try:
        yield from as_completed(futures, timeout=0.05)
    except TimeoutError:
        pass


async def awaited(future: Any) -> Any:
    return await future


def test_it_runs_calls_of_an_event_loop(file) -> None:
    async def run() -> int:
        with LimitedExecutor(1, journal=file) as executor:
            return await asyncio.get_running_loop().run_in_executor(executor, os.getpid)

    assert asyncio.run(run()) == asyncio.run(run())


@pytest.mark.parametrize(
    "make", [WHERE[name] for name in sorted(ENDS_RUNNING)], ids=sorted(ENDS_RUNNING)
)
def test_what_is_cancelled_ends_and_runs_again(make, file, tmp_path) -> None:
    with make(journal=file, wall_time=600) as executor:
        running = executor.submit(start_sleeping, tmp_path / "pid")
        pid = written_pid(tmp_path / "pid")
        waiting = [executor.submit(time.sleep, 600 + n) for n in range(5)]
        assert running.cancel()
        assert all(future.cancel() for future in waiting)
        all_gone({pid})
        assert executor.submit(abs, -1).result() == 1
    assert n_rows(file) == 1
    with make(journal=file, wall_time=600) as executor:
        again = executor.submit(start_sleeping, tmp_path / "pid 2")
        pid = written_pid(tmp_path / "pid 2")
        executor.shutdown(cancel_futures=True)
        assert again.cancelled()
    all_gone({pid})


def test_what_failed_runs_again_if_that_is_asked_for(file) -> None:
    calls = [(2,), ("no number",)]
    past = []
    for rerun in ("none", "none", "failed", "all"):
        with LimitedExecutor(SequentialExecutor(), journal=Journal(file, rerun=rerun)) as executor:  # type: ignore[arg-type]
            past.append([executor.submit(abs, *call).from_journal for call in calls])
    assert past == [[False] * 2, [True] * 2, [True, False], [False] * 2]
    assert n_rows(file) == 2


def test_a_breach_and_limits_of_the_call_are_remembered(file) -> None:
    for _ in range(2):
        with LimitedExecutor(1, wall_time=60, journal=file) as executor:
            error = executor.submit(limit(time.sleep, wall_time=0.2), 60).exception()
            assert isinstance(error, exceptions.WallTimeBreach)
            assert error.limits.wall_time == 0.2


def test_many_threads_submit_to_one_journal(file) -> None:
    """Each of the calls with the same arguments is another one."""

    def run() -> Counter[bool]:
        with (
            LimitedExecutor(SequentialExecutor(), isolation="thread", journal=file) as executor,
            ThreadPoolExecutor(8) as submitters,
        ):
            futures = [*submitters.map(lambda n: executor.submit(abs, n % 2), range(400))]
            assert [future.result() for future in futures] == [0, 1] * 200
            return Counter(future.from_journal for future in futures)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        assert run() == {False: 400}
        assert run() == {True: 400}
    finally:
        sys.setswitchinterval(interval)


def test_callbacks_may_submit_and_raise_what_they_like(file) -> None:
    """They are called in the thread that writes."""

    def submit_next(executor: LimitedExecutor, n: int) -> None:
        future = executor.submit(abs, n)
        future.add_done_callback(lambda _: submit_next(executor, n + 1) if n < 20 else ended.set())
        future.add_done_callback(lambda _: sys.exit(3))

    for _ in range(2):
        ended = threading.Event()
        with LimitedExecutor(1, journal=file) as executor:
            try:
                submit_next(executor, 0)
            except SystemExit:  # what comes back is done at once, here
                assert n_rows(file) == 21
            assert ended.wait(60)
        assert n_rows(file) == 21


# -- the end of it -----------------------------------------------------------------------------


def is_free(file: Path) -> bool:
    return not Path(f"{file}.lock").exists()


def test_after_the_shutdown_all_is_written_and_the_file_is_free(file) -> None:
    with LimitedExecutor(2, journal=file) as executor:
        futures = [executor.submit(abs, n) for n in range(50)]
        assert not is_free(file)
    assert is_free(file)
    assert all(future.done() for future in futures)
    assert n_rows(file) == 50
    assert "dask-limits-journal" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(RuntimeError, match=r"no calls after shutdown"):
        executor.submit(abs, 1)
    executor.shutdown()


def test_an_item_of_map_that_raises_in_the_shutdown_does_not_keep_the_file(file) -> None:
    def items() -> Iterator[int]:
        yield from range(500)
        raise LookupError("no more")

    executor = LimitedExecutor(2, journal=file)
    executor.map(abs, items())
    with pytest.raises(LookupError, match="no more"):
        executor.shutdown()
    assert is_free(file)
    assert n_rows(file) == 500


@pytest.mark.parametrize("make", [partial(LimitedExecutor, 2), WHERE["threads"]])
def test_a_shutdown_that_does_not_wait_frees_the_file_when_the_calls_have_ended(
    make, file, tmp_path
) -> None:
    with make(journal=file) as executor:
        futures = [executor.submit(wait_for, tmp_path / "go") for _ in range(3)]
        mapped = executor.map(abs, range(-1000, 0))
        executor.shutdown(wait=False)
        assert not is_free(file)
        assert not futures[0].done()
        (tmp_path / "go").touch()
        wait(futures)
        assert sum(mapped) == 500_500
        until(partial(is_free, file))
    assert n_rows(file) == 1003


def test_a_callback_may_shut_the_executor_down(file) -> None:
    executor = LimitedExecutor(1, journal=file)
    futures = [executor.submit(abs, n) for n in range(3)]
    futures[0].add_done_callback(lambda _: executor.shutdown())
    wait(futures)
    until(partial(is_free, file))
    assert n_rows(file) == 3


def test_an_executor_that_cannot_be_made_leaves_the_file_free(file, monkeypatch) -> None:
    monkeypatch.setattr("dask_limits.executors.processes.Guardian", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        LimitedExecutor(1, journal=file)
    assert is_free(file)


@pytest.mark.parametrize(
    ("journal", "error", "words"),
    [(3, TypeError, "must be the path"), ("/no/run.sqlite", JournalError, "cannot be made")],
)
def test_a_wrong_journal_is_said_before_anything_starts(journal, error, words) -> None:
    before = {*threading.enumerate()}  # one of an earlier test may end meanwhile
    with pytest.raises(error, match=words):
        LimitedExecutor(1, journal=journal)
    assert {*threading.enumerate()} <= before


def test_a_second_executor_is_refused_and_told_of_the_first(file) -> None:
    with LimitedExecutor(1, journal=file):
        with pytest.raises(JournalError, match=rf"This program \(process {os.getpid()}\) writes"):
            LimitedExecutor(1, journal=file)
        program = f"from dask_limits import *; LimitedExecutor(1, journal={str(file)!r})"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
        assert f"Another driver writes the journal {file}: process {os.getpid()}".encode() in (
            done.stderr
        )
    with LimitedExecutor(1, journal=file):
        pass


def test_a_fork_of_the_program_cannot_write(file) -> None:
    with LimitedExecutor(1, journal=file) as executor:
        if (pid := os.fork()) == 0:
            try:
                executor.submit(abs, 1)
            except JournalError as error:
                os._exit(7 if "is a fork of the one that writes" in str(error) else 8)
            finally:
                os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert executor.submit(abs, -1).result() == 1


def test_an_argument_that_cannot_be_told_from_others_is_an_error_of_that_call(file) -> None:
    with LimitedExecutor(SequentialExecutor(), journal=file) as executor:
        with pytest.raises(JournalError, match=r"scheduler\.task\(repr, key="):
            executor.submit(repr, threading.Lock())
        assert executor.submit(abs, -2).result() == 2


def test_without_a_journal_nothing_of_it_is_imported() -> None:
    program = (
        "import sys; from dask_limits import LimitedExecutor, SequentialExecutor\n"
        "with LimitedExecutor(SequentialExecutor()) as executor: executor.submit(abs, 1).result()\n"
        "print([name for name in sys.modules if 'journal' in name or 'sqlite' in name])"
    )
    assert subprocess.check_output([sys.executable, "-c", program]) == b"[]\n"


# -- faults ------------------------------------------------------------------------------------


def test_when_nothing_can_be_written_the_futures_say_so_and_calls_end(
    file, tmp_path, caplog
) -> None:
    with LimitedExecutor(2, journal=file) as executor:
        assert executor.submit(abs, -1).result() == 1
        running = executor.submit(start_sleeping, tmp_path / "pid")
        pid = written_pid(tmp_path / "pid")
        file.unlink()
        futures = [executor.submit(abs, 5), running]
        for future in futures:
            with pytest.raises(JournalError, match=r"was removed or .*All that was told of before"):
                future.result(timeout=60)
        all_gone({pid})
        with pytest.raises(JournalError, match=r"was removed or replaced"):
            executor.submit(abs, 6)
        with pytest.raises(JournalError, match=r"was removed or replaced"):
            list(executor.map(abs, [7]))
        assert len({id(future.exception()) for future in futures}) == 2
    assert "calls that were not told end with this error" in caplog.text
    assert is_free(file)


FULL = """
import subprocess, sys
from concurrent.futures import as_completed
from pathlib import Path
from dask_limits import LimitedExecutor
from dask_limits.exceptions import JournalError

folder = Path(sys.argv[1])

def large(n):
    return bytes(2000)

def run():
    told, past, errors = 0, 0, set()
    with LimitedExecutor(2, journal=folder / "run.sqlite") as executor:
        try:
            futures = [executor.submit(large, n) for n in range(3000)]
        except JournalError as error:
            errors.add(str(error))
            futures = []
        for future in as_completed(futures):
            if future.exception() is None:
                told += 1
                past += future.from_journal
            else:
                errors.add(str(future.exception()))
    print(told, past, errors or "")

run()
subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
run()
"""


def test_a_full_disk_is_the_exception_of_what_could_not_be_written(tmp_path) -> None:
    """On a file system of 1 MiB, which is larger when the program runs again."""
    first, again = lines_on_small_disk(FULL, tmp_path)
    assert "cannot be written: database or disk is full" in first
    told, past, _ = first.split(maxsplit=2)
    assert int(told) < 3000
    assert past == "0"
    told_again, past_again = map(int, again.split())
    assert told_again == 3000
    assert past_again >= int(told)


DRIVER = '''
import os, sys, time
from concurrent.futures import as_completed
from pathlib import Path
from dask_limits import LimitedExecutor

folder, how, n_calls = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def log(name):
    return os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
told = log("told")

def trial(n):
    """Each of its runs is noted, with the program that it is a call of."""
    os.write(log("runs"), f"{n} {driver}\\n".encode())
    while n >= int((folder / "most").read_text()):
        time.sleep(0.01)
    return n * n

driver = os.getpid()
def run(executor):
    if how == "map":
        for n, result in enumerate(executor.map(trial, range(n_calls))):
            os.write(told, f"{n} {driver} {result}\\n".encode())
        return
    futures = {executor.submit(trial, n): n for n in range(n_calls)}
    for future in as_completed(futures):
        os.write(told, f"{futures[future]} {driver} {future.result()}\\n".encode())

executor = LimitedExecutor(2, wall_time=60, journal=folder / "run.sqlite")
run(executor)
if how == "exit":
    sys.exit(0)
executor.shutdown()
'''


def words(file: Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def has_run(process: subprocess.Popen[bytes], folder: Path, n_calls: int) -> bool:
    """Whether a driver has the journal, and so many calls of it have begun; or it has ended."""
    lock = folder / "run.sqlite.lock"
    try:
        has_begun = f'"pid": {process.pid},' in lock.read_text()
    except FileNotFoundError:
        has_begun = False
    begun = [driver for _, driver in words(folder / "runs") if driver == str(process.pid)]
    return process.poll() is not None or (has_begun and len(begun) >= n_calls)


def let_end(folder: Path, n_calls: int) -> None:
    """Have no more than the first so many calls end, however late their driver is killed."""
    (folder / "most").write_text(f"{n_calls}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["submit", "map"])
def test_nothing_that_was_told_runs_again_whenever_the_driver_is_killed(how, tmp_path) -> None:
    program = tmp_path / "driver.py"
    program.write_text(DRIVER)
    seed = random.SystemRandom().randrange(10**6)
    moment = random.Random(seed)
    command = [sys.executable, str(program), str(tmp_path), how, "800"]
    drivers = []
    for number in range(1, 9):
        let_end(tmp_path, 90 * number)
        n_told = len({n for n, *_ in words(tmp_path / "told")})
        process = subprocess.Popen(command)
        drivers.append(str(process.pid))
        until(partial(has_run, process, tmp_path, moment.randint(0, 60)))
        if number in (2, 5):  # it gets on between kills, however slowly it writes
            until(lambda n=n_told: len({n for n, *_ in words(tmp_path / "told")}) > n)
        process.send_signal(signal.SIGKILL)
        process.wait()
    let_end(tmp_path, 800)
    drivers.append("the last one")
    with subprocess.Popen(command) as last:
        drivers[-1] = str(last.pid)
    assert last.returncode == 0
    assert not [*tmp_path.glob("*.lock")]
    order = {driver: n for n, driver in enumerate(drivers)}
    first_told: dict[str, int] = {}
    for n, driver, result in words(tmp_path / "told"):
        assert int(result) == int(n) ** 2
        first_told.setdefault(n, order[driver])
    again = [n for n, driver in words(tmp_path / "runs") if order[driver] > first_told[n]]
    assert not again, f"seed {seed}"
    assert len(first_told) == n_rows(tmp_path / "run.sqlite") == 800
    assert len(set(first_told.values())) > 2


@pytest.mark.parametrize("how", ["exit", "submit"])
def test_the_end_of_the_program_writes_all_and_frees_the_file(how, tmp_path) -> None:
    program = tmp_path / "driver.py"
    program.write_text(DRIVER)
    let_end(tmp_path, 200)
    for _ in range(2):
        command = [sys.executable, str(program), str(tmp_path), how, "200"]
        subprocess.run(command, check=True, timeout=60)
        assert is_free(tmp_path / "run.sqlite")
    assert len(words(tmp_path / "runs")) == 200
    assert len(words(tmp_path / "told")) == 400


def test_an_executor_that_nobody_shuts_down_writes_what_ends_after_the_program(tmp_path) -> None:
    program = (
        "import time; from dask_limits import LimitedExecutor\n"
        f"executor = LimitedExecutor(2, journal={str(tmp_path / 'run.sqlite')!r})\n"
        "for n in range(9): executor.submit(time.sleep, n / 20)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert n_rows(tmp_path / "run.sqlite") == 9
    assert is_free(tmp_path / "run.sqlite")
