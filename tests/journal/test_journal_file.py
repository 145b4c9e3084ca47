"""The file of a journal: one driver at a time, of this user alone, and no surprise if it is bad."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from processes import until
from required import need_root
from small_disk import lines_on_small_disk

from dask_limits import Journal, Scheduler
from dask_limits.exceptions import JournalError
from dask_limits.journal import file_system, lock, rows
from dask_limits.journal.store import Store


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.sqlite"


def run(journal: Any, *calls: Any, fn: Any = abs) -> list[tuple[Any, bool]]:
    scheduler = Scheduler.with_threads(2)
    told: list[tuple[Any, bool]] = []
    scheduler.on_start(lambda: [scheduler.submit(fn, call) for call in calls] and None)
    scheduler.on_future_result(lambda future, result: told.append((result, future.from_journal)))
    scheduler.run(journal=journal)
    return told


def test_nobody_else_can_read_it(file):
    before = os.umask(0)
    try:
        run(file, 1)
        run(file, b"x" * (rows.LARGE + 1), fn=bytes)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    values = Path(f"{file}.values")
    assert stat.S_IMODE(values.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in values.iterdir()} == {0o600}


def test_a_large_result_is_in_a_file_of_its_own_and_comes_back(file):
    large = b"x" * (rows.LARGE + 1)
    assert run(file, large, fn=bytes) == [(large, False)]
    assert file.stat().st_size < rows.LARGE
    assert run(file, large, fn=bytes) == [(large, True)]


def test_a_file_that_others_can_write_is_refused(file):
    run(file, 1)
    for mode in (0o620, 0o602):
        file.chmod(mode)
        with pytest.raises(JournalError, match=f"mode {mode:o}.*chmod go-w"):
            run(file, 1)
        with pytest.raises(JournalError, match="chmod go-w"):
            Journal(file).report()
    file.chmod(0o600)
    assert run(file, 1) == [(1, True)]


def test_a_file_of_another_user_is_refused(file):
    need_root()
    run(file, 1)
    os.chown(file, 65534, 65534)
    with pytest.raises(JournalError, match="belongs to another user"):
        run(file, 1)


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("whose", ["another user's", "for others to write"])
def test_what_somebody_else_has_put_beside_it_is_refused(whose, end, file):
    """SQLite would make its content that of the journal, whose pickles are loaded."""
    need_root()
    run(file, 1)
    beside = Path(f"{file}{end}")
    beside.write_bytes(b"")
    beside.chmod(0o666 if whose == "for others to write" else 0o600)
    if whose == "another user's":
        os.chown(beside, 65534, 65534)
    for use in (lambda: run(file, 1), Journal(file).report):
        with pytest.raises(JournalError, match=r"another user|chmod go-w"):
            use()


def test_nobody_else_can_put_something_beside_it_while_it_is_used(file):
    scheduler = Scheduler.with_sequential()
    beside: set[tuple[str, int]] = set()

    @scheduler.on_start
    def look():
        for path in file.parent.iterdir():
            beside.add((path.name.removeprefix(file.name), stat.S_IMODE(path.stat().st_mode)))

    scheduler.run(journal=file)
    assert beside == {(end, 0o600) for end in ("", "-journal", "-wal", "-shm", ".lock")}
    assert [*file.parent.iterdir()] == [file]


def test_a_folder_in_which_others_can_replace_files_is_refused(file):
    run(file, 1)
    for mode in (0o775, 0o777):
        file.parent.chmod(mode)
        with pytest.raises(JournalError, match=f"replace files in .*mode {mode:o}"):
            run(file, 1)
    file.parent.chmod(0o1777)  # as /tmp
    assert run(file, 1) == [(1, True)]


def test_a_file_that_is_removed_while_it_is_written_ends_the_run(file):
    scheduler = Scheduler.with_threads(1)
    scheduler.on_start(lambda: scheduler.map(abs, range(10_000)))
    scheduler.on_future_done(lambda _: file.unlink(missing_ok=True))
    with pytest.raises(JournalError, match="was removed or replaced meanwhile"):
        scheduler.run(journal=file)


def test_a_file_that_was_moved_to_a_shared_file_system_has_no_log_there(file, monkeypatch):
    run(file, 1)
    monkeypatch.setattr(file_system, "kind_of", lambda path: "lustre")
    assert run(file, 1) == [(1, True)]
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_large_result_that_replaces_another_takes_its_place_at_once(file, monkeypatch):
    """Killed between the two, the old one is still there, whole."""
    sizes = iter([rows.LARGE + 1, rows.LARGE + 2, rows.LARGE + 3])
    draw = lambda _: bytes(next(sizes))  # noqa: E731
    run(file, 0, fn=draw)

    class Killed(BaseException):
        pass

    def add(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", staticmethod(add))
        with pytest.raises(JournalError):
            run(Journal(file, rerun="all"), 0, fn=draw)
    assert [len(result) for result, _ in run(file, 0, fn=draw)] == [rows.LARGE + 1]
    assert [len(r) for r, _ in run(Journal(file, rerun="all"), 0, fn=draw)] == [rows.LARGE + 3]
    assert len([*Path(f"{file}.values").iterdir()]) == 1


def test_values_that_no_call_has_are_removed_when_a_run_begins(file):
    """A driver that was killed has written them, but not their rows; or the disk was full."""
    large = b"x" * (rows.LARGE + 1)
    run(file, large, fn=bytes)
    (known,) = Path(f"{file}.values").iterdir()
    number = known.stem.partition("-")[2]
    unknown = [known.with_name(f"{'a' * 32}-{number}.pickle"), known.with_suffix(".part")]
    for path in (*unknown, known.with_name("README")):
        path.write_bytes(b"")
    Journal(file).report()
    assert all(path.exists() for path in unknown)  # a driver may be writing them
    assert run(file, large, fn=bytes) == [(large, True)]
    assert {*known.parent.iterdir()} == {known, known.with_name("README")}


def test_a_folder_of_values_of_another_user_is_refused(file):
    need_root()
    large = b"x" * (rows.LARGE + 1)
    run(file, large, fn=bytes)
    os.chown(f"{file}.values", 65534, 65534)
    with pytest.raises(JournalError, match="belongs to another user"):
        run(file, large, fn=bytes)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"no database" * 1000, "is not a journal"), (b"\0" * 5000, "is not a journal")],
)
def test_what_is_no_database_is_refused_and_kept(file, content, words):
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(JournalError, match=words):
        run(file, 1)
    assert file.read_bytes() == content


def test_another_program_s_database_is_refused(file):
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE calls (number)")
    with pytest.raises(JournalError, match="is another program's database"):
        run(file, 1)


def test_a_journal_of_a_later_version_is_refused(file):
    run(file, 1)
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalError, match="its format is 99, and this version knows 1"):
        run(file, 1)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cut=st.floats(0, 1),
    at=st.floats(0, 1),
    junk=st.binary(min_size=1, max_size=200),
    how=st.sampled_from(["cut", "overwrite"]),
)
@example(cut=0, at=0.0859375, junk=b"\x80", how="overwrite")
@example(cut=0, at=0.09375, junk=b"'\x80", how="overwrite")
def test_a_damaged_file_is_a_clear_error_or_does_no_harm(tmp_path, cut, at, junk, how):
    """Whatever is read of it: a result that comes back is the right one."""
    file = tmp_path / "damaged.sqlite"
    for one in tmp_path.glob("damaged*"):
        one.unlink()
    calls = range(-200, 0)
    run(file, *calls)
    content = bytearray(file.read_bytes())
    if how == "cut":
        del content[int(cut * len(content)) :]
    else:
        start = int(at * len(content))
        content[start : start + len(junk)] = junk
    file.write_bytes(content)
    try:
        told = run(file, *calls)
    except JournalError:
        return
    assert {result for result, _ in told} == {-call for call in calls}


def test_a_changed_value_is_an_error(file):
    """SQLite finds damage of its own structures alone."""
    run(file, -12345)
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE calls SET value = ?", (pickle.dumps(54321),))
    with pytest.raises(JournalError, match="its checksum is wrong"):
        run(file, -12345)


def test_there_is_no_report_of_a_file_that_is_not_there(file):
    with pytest.raises(JournalError, match=r"cannot be read: No such file"):
        Journal(file).report()
    assert not file.exists()


def test_a_folder_that_is_not_there_is_an_error_before_anything_starts(tmp_path):
    with pytest.raises(JournalError, match="cannot be made: No such file"):
        run(tmp_path / "no" / "run.sqlite", 1)


# -- two drivers -------------------------------------------------------------------------------

HOLDER = """
import sys, time
from dask_limits import Scheduler
scheduler = Scheduler.with_sequential()
scheduler.on_start(lambda: scheduler.call_later(600, print))
scheduler.on_start(lambda: print("runs", flush=True))
scheduler.run(journal=sys.argv[1])
"""


def holder(file: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "runs\n"
    return process


def test_a_second_driver_is_refused_and_told_of_the_first(file):
    with holder(file) as first:
        try:
            with pytest.raises(JournalError, match=f"process {first.pid}, on .*since 20"):
                run(file, 1)
            assert len(Journal(file).report()) == 0  # reading does not disturb it
        finally:
            first.kill()


def test_the_lock_of_a_driver_that_was_killed_counts_no_more(file):
    with holder(file) as first:
        first.send_signal(signal.SIGKILL)
    assert Path(f"{file}.lock").exists()
    assert run(file, 1) == [(1, False)]
    assert not Path(f"{file}.lock").exists()


def test_two_runs_of_one_program_cannot_have_one_journal(file):
    scheduler = Scheduler.with_sequential()
    errors: list[BaseException] = []

    @scheduler.on_start
    def again():
        try:
            Scheduler.with_sequential().run(journal=file)
        except JournalError as error:
            errors.append(error)

    scheduler.run(journal=file)
    assert f"process {os.getpid()}" in str(errors)
    with holder(file) as other:  # the lock was released with the run, not before
        other.kill()


BESIDE = (".lock", "-journal", "-wal", "-shm")


def test_a_driver_whose_lock_was_removed_ends_and_leaves_the_next_one_alone(file):
    scheduler = Scheduler.with_threads(1)
    scheduler.on_start(lambda: scheduler.map(abs, range(10_000)))
    others: list[subprocess.Popen[str]] = []

    @scheduler.on_future_done
    def remove(_: object) -> None:
        if not others:
            Path(f"{file}.lock").unlink()
            others.append(holder(file))

    with pytest.raises(JournalError, match="lock was removed or replaced while this program"):
        scheduler.run(journal=file)
    with others[0] as other:
        assert {path.name.removeprefix(file.name) for path in file.parent.iterdir()} >= set(BESIDE)
        with pytest.raises(JournalError, match=f"process {other.pid}"):
            run(file, 1)
        other.kill()


def test_the_lock_is_no_standard_stream_of_a_program_that_has_closed_them(file):
    """What reads or closes these would read the lock file, and release the lock."""
    looks = f"os.path.realpath(f'/proc/self/fd/{{n}}') == {str(file)!r} + end"
    program = f"""
import os, sys
from dask_limits import Scheduler
def find():
    for end in ("", ".lock"):
        found.extend(n for n in map(int, os.listdir("/proc/self/fd")) if {looks})
    return len(found)
found = []
scheduler = Scheduler.with_sequential()
scheduler.on_start(lambda: [find()] and None)
scheduler.run(journal=sys.argv[1])
sys.exit(0 if len(found) >= 2 and min(found) > 2 else 1)
"""
    line = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program, str(file)]
    assert subprocess.run(line, check=False).returncode == 0


def test_without_locks_of_the_file_system_a_driver_is_known_by_its_start(file, monkeypatch):
    """As on some file systems of several machines; the number of a process is used again."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with holder(file) as first:
        monkeypatch.setattr(fcntl, "lockf", no_locks)
        with pytest.raises(JournalError, match=f"process {first.pid}"):
            run(file, 1)
        first.kill()
    until(lambda: lock.start_of(first.pid) is None)
    monkeypatch.setattr(lock, "start_of", lambda pid: 1.0)  # another process of that number
    assert run(file, 1) == [(1, False)]


def test_a_driver_on_another_machine_without_locks_is_not_overrun(file, monkeypatch):
    monkeypatch.setattr(lock.socket, "gethostname", lambda: "elsewhere")
    with holder(file) as first:
        first.kill()
    Path(f"{file}.lock").write_text('{"host": "node17", "pid": 3, "start": 5}')

    def no_locks(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with pytest.raises(JournalError, match=r"process 3, on node17.* remove .*run.sqlite.lock"):
        run(file, 1)


# -- disks ---------------------------------------------------------------------------------------


def test_on_a_shared_file_system_there_is_no_write_ahead_log(file, monkeypatch):
    monkeypatch.setattr(file_system, "kind_of", lambda path: "nfs4")
    assert run(file, 1, 2) == [(1, False), (2, False)]
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert run(file, 1, 2) == [(1, True), (2, True)]


def test_this_machine_s_file_systems_have_names(tmp_path):
    assert file_system.kind_of(Path("/proc")) == "proc"
    assert not file_system.is_shared(tmp_path)


FULL = """
import sys
from pathlib import Path
from dask_limits import Scheduler
from dask_limits.exceptions import JournalError
folder = Path(sys.argv[1])
scheduler = Scheduler.with_threads(2)
told = []
scheduler.on_start(lambda: scheduler.map(lambda n: bytes(2000), range(5000)))
scheduler.on_future_result(lambda future, result: told.append(future))
try:
    scheduler.run(journal=folder / "run.sqlite")
except JournalError as error:
    print(error)
print(len(told))
import subprocess
subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
again = []
scheduler.on_future_result(lambda future, result: again.append(future.from_journal))
scheduler.run(journal=folder / "run.sqlite")
print(sum(again), len(again))
"""


def test_a_full_disk_ends_the_run_and_loses_nothing_that_was_told(tmp_path):
    """On a file system of 1 MiB, which is larger when the program runs again."""
    error, told, again = lines_on_small_disk(FULL, tmp_path)
    assert "cannot be written: database or disk is full" in error
    assert 0 < int(told) < 5000
    past, total = map(int, again.split())
    assert past >= int(told)
    assert total == 5000
