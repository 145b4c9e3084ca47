"""One account for all programs of a user on a machine, which do not know of each other."""

from __future__ import annotations

import os
import resource
import signal
import stat
import tempfile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from machine import GIB, MACHINE, of_size, script
from processes import until
from required import need_root

from dask_limits import limit
from dask_limits.limits.owner import shared_account
from dask_limits.limits.owner.account import Account, account_here
from dask_limits.limits.owner.capacity import Capacity
from dask_limits.limits.owner.reservation import Reservation, Slots
from dask_limits.limits.owner.shared_account import SharedAccount
from dask_limits.placement.resources import Request

HOLD = """
import time
from dask_limits import limit

def hold(folder, name):
    (folder / name).touch()
    while not (folder / "go").exists():
        time.sleep(0.01)

if __name__ == "__main__":
    limit(hold, memory=sys.argv[2])(Path(sys.argv[1]), sys.argv[3])
"""
MANY = """
import random, time
from dask_limits import LimitedExecutor, limit

def note(file, what):
    begin = time.monotonic()
    time.sleep(0.02)
    with file.open("a") as lines:
        lines.write(f"{what} {begin} {time.monotonic()}\\n")

if __name__ == "__main__":
    rng = random.Random(int(sys.argv[2]))
    with LimitedExecutor(3) as executor:
        for _ in range(25):
            size = rng.choice([1, 2, 3, 6])
            executor.submit(limit(note, memory=size * 2**30), Path(sys.argv[1]), size)
"""


@pytest.fixture
def account(tmp_path):
    with of_size(tmp_path) as account:
        yield account


@pytest.fixture
def start(tmp_path):
    programs = []

    def start(text, *arguments):
        programs.append(script(tmp_path, text, *arguments))
        return programs[-1]

    yield start
    (tmp_path / "go").touch()
    for program in programs:
        program.communicate(timeout=60)


def the_file(folder):
    return folder / f"dask-limits-{os.geteuid()}"


def test_limits_of_several_programs_never_sum_up_to_more_than_the_machine_has(start, tmp_path):
    notes = tmp_path / "notes"
    programs = [start(MANY, notes, seed) for seed in range(3)]
    assert [program.wait(timeout=120) for program in programs] == [0, 0, 0]
    runs = [line.split() for line in notes.read_text().splitlines()]
    changes = [
        (float(at), s * int(n)) for n, *ends in runs for s, at in zip((1, -1), ends, strict=True)
    ]
    total = most = 0
    for _, change in sorted(changes):
        total += change
        most = max(most, total)
    assert (len(runs), most) == (75, 8)
    assert not the_file(tmp_path).exists()  # the last one to end has removed it


def test_a_call_waits_for_what_another_program_holds_and_smaller_ones_do_not(
    account, start, tmp_path
):
    start(HOLD, tmp_path, "6 GiB", "begun")
    until((tmp_path / "begun").exists)
    assert limit(abs, memory="2 GiB")(-1) == 1
    waiting = Reservation(Request(3 * GIB, 0), tell=lambda: None)
    assert not account.take(waiting)
    assert limit(abs, memory="1 GiB")(-2) == 2
    (tmp_path / "go").touch()
    until(lambda: account.look() or waiting.is_granted)
    account.give_back(waiting)


def test_what_a_killed_program_has_reserved_is_free(account, start, tmp_path):
    program = start(HOLD, tmp_path, "6 GiB", "begun")
    until((tmp_path / "begun").exists)
    waiting = Reservation(Request(7 * GIB, 0), tell=lambda: None)
    assert not account.take(waiting)
    program.kill()
    until(lambda: account.look() or waiting.is_granted)
    account.give_back(waiting)


def test_a_large_call_gets_its_turn_beside_other_programs(account, start, tmp_path):
    large = start(HOLD, tmp_path, "7 GiB", "large")
    running = [Reservation(Request(GIB, 0), tell=lambda: None) for _ in range(3)]
    assert all(map(account.take, running))

    def another_small_one_comes():  # there are always two or three
        account.take(one := Reservation(Request(GIB, 0), tell=lambda: None))
        running.append(one)
        account.give_back(running.pop(0))
        account.look(at_once=True)
        return (tmp_path / "large").exists()

    until(another_small_one_comes, 100)
    for one in running:
        account.give_back(one)
    (tmp_path / "go").touch()
    assert large.wait(timeout=60) == 0


def test_a_program_that_is_stopped_while_it_has_the_lock_stops_no_other(account, start, tmp_path):
    program = start(
        "account = shared_account.SharedAccount(account.account_here()._capacity)\n"
        "account.lock(); print('locked', flush=True); sys.stdin.read()",
    )
    assert program.stdout.readline() == "locked\n"
    program.send_signal(signal.SIGSTOP)
    assert limit(abs, memory="1 GiB")(-1) == 1
    program.kill()
    program.send_signal(signal.SIGCONT)


def test_a_fork_has_an_account_of_its_own(account):
    account.take(held := Reservation(Request(6 * GIB, 0)))
    if (pid := os.fork()) == 0:
        status = 1
        try:
            here = account_here()
            here._capacity = MACHINE
            fits = here.take(Reservation(Request(2 * GIB, 0)))
            status = 0 if fits and not here.take(Reservation(Request(GIB, 0)), waits=False) else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    more = Reservation(Request(2 * GIB, 0))
    assert account.take(more, waits=False)
    account.give_back(held)
    account.give_back(more)


# -- the file -----------------------------------------------------------------------------------


def test_only_its_user_can_read_or_write_the_file(account, tmp_path):
    before = os.umask(0)
    try:
        account.take(one := Reservation(Request(GIB, 0)))
    finally:
        os.umask(before)
    assert stat.S_IMODE(the_file(tmp_path).stat().st_mode) == 0o600
    account.give_back(one)


def symlink(path):
    (path.parent / "other").write_text("mine")
    path.symlink_to(path.parent / "other")


def hard_link(path):
    (path.parent / "other").write_text("mine")
    path.hardlink_to(path.parent / "other")


def of_another_program(path):
    path.write_text("something else\n" * 100)


def unwritable(path):
    path.mkdir()


def a_fifo(path):
    os.mkfifo(path)


def of_another_user(path):
    need_root()
    path.touch()
    os.chown(path, 12345, 12345)


@pytest.mark.parametrize(
    "make", [symlink, hard_link, of_another_program, unwritable, a_fifo, of_another_user]
)
def test_what_is_there_instead_is_left_alone_and_the_program_has_its_own_account(
    account, tmp_path, make
):
    make(the_file(tmp_path))
    before = the_file(tmp_path).lstat()
    assert limit(abs, memory="8 GiB")(-1) == 1
    one = Reservation(Request(8 * GIB, 0))
    assert account.take(one)
    assert not account.take(Reservation(Request(1, 0)), waits=False)
    account.give_back(one)
    after = the_file(tmp_path).lstat()
    assert (after.st_mode, after.st_size, after.st_uid) == (
        before.st_mode,
        before.st_size,
        before.st_uid,
    )
    if (other := tmp_path / "other").exists():
        assert other.read_text() == "mine"


def test_where_there_is_no_such_folder_a_program_has_its_own_account(tmp_path):
    with of_size(tmp_path / "missing"):
        assert limit(abs, memory="8 GiB")(-1) == 1


def is_opened_again(account, before):
    """Whether the account of all programs is another one, as a call takes something of it."""
    one = Reservation(Request(1, 0))
    account.take(one)
    account.give_back(one)
    return account._others._shared not in (before, None)


def test_where_the_file_can_have_no_room_a_program_has_its_own_account(account):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, before[1]))
    try:
        one = Reservation(Request(8 * GIB, 0))
        assert account.take(one)
        account.give_back(one)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert account._others._shared is None


def test_a_file_that_was_removed_is_made_again_with_what_is_held(account, tmp_path, start):
    held = Reservation(Request(6 * GIB, 0))
    account.take(held)
    the_file(tmp_path).unlink()
    shared = account._others._shared
    until(lambda: is_opened_again(account, shared))
    program = start(HOLD, tmp_path, "3 GiB", "begun")
    until(lambda: any(row.ticket for row in account._others._shared.others()))  # it waits
    assert not (tmp_path / "begun").exists()
    account.give_back(held)
    (tmp_path / "go").touch()
    assert program.wait(timeout=60) == 0


def test_a_file_that_this_program_has_closed_is_opened_again_and_no_other_is_closed(
    account, tmp_path
):
    held = Reservation(Request(6 * GIB, 0))
    account.take(held)
    shared = account._others._shared
    os.close(shared._fd)
    another = os.open("/dev/null", os.O_RDONLY)
    os.dup2(another, shared._fd)
    number = shared._fd
    until(lambda: is_opened_again(account, shared))
    os.fstat(number)
    os.close(number)
    os.close(another)
    assert not account.take(Reservation(Request(3 * GIB, 0)), waits=False)
    account.give_back(held)


def test_more_programs_than_the_file_has_rows_for_have_their_own(
    account, monkeypatch, start, tmp_path
):
    monkeypatch.setattr(shared_account, "_MOST_ROWS", 1)
    start(HOLD, tmp_path, "6 GiB", "begun")
    until((tmp_path / "begun").exists)
    assert limit(abs, memory="8 GiB")(-1) == 1


# -- any order ----------------------------------------------------------------------------------


class Programs(RuleBasedStateMachine):
    """Any order of calls and ends in three programs, which are killed and started again.

    They are accounts of one process here, which the kernel would not keep from each other's rows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="dask-limits-")
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(shared_account, "FOLDER", self.folder.name)
        self.patch.setattr(SharedAccount, "_try_lock_row", self.try_lock_row)
        self.patch.setattr(SharedAccount, "_unlock_row", lambda _, row: self.rows.discard(row))
        self.rows: set[int] = set()
        self.programs = [self.program() for _ in range(3)]

    def try_lock_row(self, row: int) -> bool:
        is_free = row not in self.rows
        self.rows.add(row)
        return is_free

    def program(self) -> tuple[Account, Slots, list[Reservation]]:
        account = Account()
        account._capacity = Capacity(8, 4, "this machine", 1)
        return account, Slots(2), []

    @rule(
        n=st.integers(0, 2), memory=st.integers(0, 8), cores=st.integers(0, 4), slot=st.booleans()
    )
    def a_call_comes(self, n: int, memory: int, cores: int, slot: bool) -> None:
        account, slots, calls = self.programs[n]
        calls.append(Reservation(Request(memory, cores), slots=slots if slot else None))
        account.take(calls[-1])

    @rule(n=st.integers(0, 2), which=st.integers(0, 20))
    def a_call_ends_or_is_cancelled(self, n: int, which: int) -> None:
        account, _, calls = self.programs[n]
        if calls:
            self.end(account, calls.pop(which % len(calls)))

    def end(self, account: Account, one: Reservation) -> None:
        if one.is_granted and one.slots:
            one.slots.free.append(None)
        account.give_back(one)

    @rule(n=st.integers(0, 2))
    def a_program_looks(self, n: int) -> None:
        self.programs[n][0].look(at_once=True)

    @rule(n=st.integers(0, 2))
    def a_program_is_killed(self, n: int) -> None:
        if (shared := self.programs[n][0]._others._shared) is not None:
            self.rows.discard(shared._number)
        self.programs[n][0].forget()
        self.programs[n] = self.program()

    @invariant()
    def what_runs_never_sums_up_to_more_than_there_is(self) -> None:
        held = [one.request for _, _, calls in self.programs for one in calls if one.is_granted]
        assert sum(request.memory for request in held) <= 8
        assert sum(request.cores for request in held) <= 4
        assert all(len(slots.free) >= 0 for _, slots, _ in self.programs)

    def teardown(self) -> None:
        try:
            self.all_run_in_the_end()
        finally:
            for account, _, _ in self.programs:
                account.forget()
            self.patch.undo()
            self.folder.cleanup()

    def all_run_in_the_end(self) -> None:
        while left := sum(len(calls) for _, _, calls in self.programs):
            for account, _, calls in self.programs:
                account.look(at_once=True)
                for one in [one for one in calls if one.is_granted]:
                    calls.remove(one)
                    self.end(account, one)
                self.what_runs_never_sums_up_to_more_than_there_is()
            now = sum(len(calls) for _, _, calls in self.programs)
            assert now < left, "of what waits nothing can begin, although nothing runs"


Programs.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestPrograms = Programs.TestCase
