"""Calls that do what calls should not do: the limits hold, and nothing is left of them."""

import ctypes
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import pytest
from isolations import nothing_goes_on, on_each, on_processes
from kinds import KINDS, expect_breach
from overdoing import SPIN

from dask_limits import exceptions
from dask_limits.limits import CancelToken, Limits
from dask_limits.limits.owner import connection
from dask_limits.limits.owner.guardian import Guardian, default_guardian

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest


def run(fn, *args, **limits):
    return default_guardian().run(fn, args, {}, Limits(**limits))


def with_every_file(harm, lowest=3):
    """Do something to each open file of this process."""
    for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - its names are numbers
        try:
            if fd >= lowest:
                harm(fd)
        except OSError:
            pass


def with_every_signal(what):
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            what(number)
        except (OSError, ValueError):
            pass


# -- each of these goes over a limit, in its own way -----------------------------------------


def ignoring_every_signal(over):
    with_every_signal(lambda number: signal.signal(number, signal.SIG_IGN))
    over()


def handling_every_signal(over):
    with_every_signal(lambda number: signal.signal(number, lambda *_: None))
    while True:
        over()


def resetting_every_signal(over):
    with_every_signal(lambda number: signal.signal(number, signal.SIG_DFL))
    over()


def blocking_every_signal(over):
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    over()


def swallowing_everything(over):
    while True:
        try:
            over()
        except BaseException:
            pass


def stopping_itself(over):
    if os.fork() == 0:
        over()
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGSTOP)


def stopping_its_parent(over):
    if os.fork() == 0:
        os.kill(os.getppid(), signal.SIGSTOP)
        over()
    time.sleep(600)


def deadlocked(over):
    first, second = threading.Lock(), threading.Lock()

    def take(one, other):
        with one:
            time.sleep(0.01)
            with other:
                time.sleep(600)

    for locks in ((first, second), (second, first)):
        threading.Thread(target=take, args=locks).start()
    over()


def in_a_thread(over):
    thread = threading.Thread(target=over)
    thread.start()
    thread.join()


def after_its_main_thread(over):
    threading.Thread(target=over).start()
    ctypes.CDLL(None).syscall(60, 0)  # exit, of this thread alone


def detached_again_and_again(over):
    if os.fork() == 0:
        os.setsid()
        hops = 0
        while hops < 3000:  # each lives for a moment only
            hops += 1
            if os.fork():
                os._exit(0)
        time.sleep(600)
    over()


def in_its_own_session_and_group(over):
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            os.setpgid(0, 0)
            over()
        os._exit(0)
    os.waitpid(pid, 0)
    time.sleep(600)


def leaving_zombies(over):
    for _ in range(20):
        if os.fork() == 0:
            os._exit(0)
    time.sleep(0.05)
    over()


def without_its_files(over):
    with_every_file(os.close, lowest=0)
    over()


def with_noise_in_its_files(over):
    with_every_file(lambda fd: os.write(fd, b"x" * 300))
    over()


def with_its_files_cut_short(over):
    with_every_file(lambda fd: os.ftruncate(fd, 0))
    over()


def with_its_files_read_and_sought(over):
    with_every_file(lambda fd: os.set_blocking(fd, False))
    with_every_file(lambda fd: os.lseek(fd, 0, os.SEEK_END))
    over()


def elsewhere(over):
    os.chdir("/proc")
    os.umask(0o777)
    os.environ.clear()
    sys.path.clear()
    over()


def with_tight_rlimits(over):
    for name in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK):
        resource.setrlimit(name, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    os.nice(19)
    over()


def recursing(over):
    def down(depth):
        return over() if depth == 0 else down(depth - 1)

    sys.setrecursionlimit(20_000)
    down(10_000)


def exiting_on_its_way(over):
    try:
        over()
    finally:
        os._exit(0)


WAYS = [
    ignoring_every_signal,
    handling_every_signal,
    resetting_every_signal,
    blocking_every_signal,
    swallowing_everything,
    stopping_itself,
    stopping_its_parent,
    deadlocked,
    in_a_thread,
    after_its_main_thread,
    detached_again_and_again,
    in_its_own_session_and_group,
    leaving_zombies,
    without_its_files,
    with_noise_in_its_files,
    with_its_files_cut_short,
    with_its_files_read_and_sought,
    elsewhere,
    with_tight_rlimits,
    recursing,
    exiting_on_its_way,
]


@on_processes
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_no_way_leads_past_a_limit(isolated, way):
    for kind in KINDS:
        expect_breach(isolated, kind, way)
        nothing_goes_on()


def hold_the_gil(kind):
    """Go over a limit in one call of C code."""
    c = ctypes.PyDLL(None)  # its functions keep the GIL
    if kind == "cpu_time":
        re.match("(a|a)+$", "a" * 100 + "b")
    if kind == "memory":
        c.malloc.restype = ctypes.c_void_p
        c.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
        c.memset(c.malloc(ctypes.c_size_t(2**30)), 1, 2**30)
    if kind == "num_processes":
        for _ in range(3):
            subprocess.Popen(["sleep", "600"])
    c.sleep(600)


@on_processes
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_c_code_that_holds_the_gil_is_ended(isolated, kind):
    error = isolated(hold_the_gil, **kind.reached).run(kind.name).exception
    assert isinstance(error, kind.breach)
    assert "in hold_the_gil" in error.stacks
    assert isolated(abs, wall_time=30)(-1) == 1


def fork_without_end(generations):
    for _ in range(generations):
        os.fork()
    time.sleep(600)


@on_processes
@pytest.mark.parametrize("limits", [{"num_processes": 10}, {"wall_time": 0.3}], ids=str)
def test_a_fork_bomb_is_ended(isolated, limits):
    error = isolated(fork_without_end, **limits).run(8).exception
    assert isinstance(error, exceptions.Breach)
    assert isolated(abs, wall_time=30)(-1) == 1
    nothing_goes_on()


@on_processes
@pytest.mark.parametrize("in_child", [False, True])
def test_memory_that_grows_faster_than_we_look_is_a_breach(isolated, in_child):
    def leap():
        if in_child and (pid := os.fork()):
            os.waitpid(pid, 0)
            return
        block = b"x" * 500_000_000
        time.sleep(600 if in_child else 0)
        del block

    error = isolated(leap, memory="200 MiB", wall_time=50).run().exception
    assert isinstance(error, exceptions.MemoryBreach)


def recurse_for_ever():
    def down():
        down()

    sys.setrecursionlimit(2**31 - 1)
    down()


@on_processes
def test_recursion_without_end_ends(isolated):
    error = isolated(recurse_for_ever, memory="300 MiB").run().exception
    assert isinstance(error, exceptions.MemoryBreach | exceptions.CrashError)
    assert isolated(abs, wall_time=30)(-1) == 1
    deep = isolated(recurse_in_c, wall_time=30).run().exception
    assert isinstance(deep, exceptions.CrashError)
    assert deep.signal == signal.SIGSEGV


def recurse_in_c():
    sys.setrecursionlimit(2**31 - 1)
    nested = []
    for _ in range(100_000):
        nested = [nested]
    threading.stack_size(2**16)  # from Python 3.12 on, a count ends it before it fills a usual one
    thread = threading.Thread(target=repr, args=[nested])
    thread.start()
    thread.join()


# -- answers ---------------------------------------------------------------------------------


class Answer:
    """Does something while it is pickled."""

    def __init__(self, act):
        self.act = act

    def __reduce__(self):
        self.act()
        return abs, (-1,)


@on_processes
@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), exceptions.CrashError),
        (lambda: os._exit(3), exceptions.ExitError),
        (lambda: os.kill(os.getpid(), signal.SIGSTOP), exceptions.WallTimeBreach),
        (lambda: time.sleep(600), exceptions.WallTimeBreach),
        (lambda: sys.exit(3), exceptions.CallPicklingError),
        (lambda: with_every_file(os.close), exceptions.CrashError),
        (lambda: 1 / 0, exceptions.CallPicklingError),
    ],
    ids=["dies", "exits", "stops", "stalls", "raises SystemExit", "closes files", "raises"],
)
def test_what_happens_while_an_answer_is_made_is_told(isolated, act, expected):
    error = (
        isolated(Answer, wall_time=1.5 if expected is exceptions.WallTimeBreach else 30)
        .run(act)
        .exception
    )
    assert type(error) is expected
    assert isolated(abs, wall_time=30)(-1) == 1
    nothing_goes_on()


@on_processes
def test_hundreds_of_megabytes_come_back(isolated):
    call = isolated(lambda n: (b"x" * n, bytearray(n), ["y" * 1000] * 1000), wall_time=50)
    for _ in range(2):
        block, array, _ = call(150_000_000)
        assert block[-1:] == b"x"
        assert len(array) == 150_000_000


@on_each()
def test_odd_exceptions_come_as_errors_and_never_out_of_run(isolated):
    class NoText(Exception):
        def __init__(self):
            self.lock = threading.Lock()

        def __str__(self):
            raise ValueError("no text")

    class Impostor(Exception):
        def __reduce__(self):
            return str, ("not an exception",)

    def fail(kind):
        raise kind()

    for kind in (NoText, Impostor):
        error = isolated(fail, wall_time=30).run(kind).exception
        if isolated.name == "thread":
            assert type(error) is kind
        else:
            assert isinstance(error, exceptions.CallPicklingError)
            assert error.part == "exception"


@on_processes
def test_a_value_whose_rebuilding_exits_does_not_exit_its_owner(isolated):
    owner = os.getpid()

    class Exits:
        def __reduce__(self):
            code = f"import os\nif os.getpid() == {owner}: raise SystemExit(3)"
            return exec, (code,)

    error = isolated(Exits, wall_time=30).run().exception
    assert isinstance(error, exceptions.CallPicklingError)
    assert error.part == "result"


def test_an_answer_that_comes_only_because_the_call_is_being_ended_does_not_count():
    def nap():
        return ctypes.CDLL(None).sleep(600)  # a signal makes it return, with what is left

    for _ in range(5):
        assert isinstance(run(nap, wall_time=0.1).exception, exceptions.WallTimeBreach)
    token = CancelToken()
    timer = threading.Timer(0.1, token.cancel)
    timer.start()
    outcome = default_guardian().run(nap, (), {}, cancel=token)
    timer.join()
    assert isinstance(outcome.exception, exceptions.CallCancelledError)


def test_a_call_whose_process_does_not_answer_is_ended_in_the_end(monkeypatch):
    def stop_the_one_that_answers():
        os.kill(os.getppid(), signal.SIGSTOP)

    sooner = (
        "; from dask_limits.limits.guardian import monitor; monitor._ANSWER_WAIT_S = 0.5; main("
    )
    program = connection._PROGRAM.replace("; main(", sooner)
    assert sooner in program
    monkeypatch.setattr(connection, "_PROGRAM", program)
    error = run(stop_the_one_that_answers, isolation="fresh").exception
    assert isinstance(error, exceptions.CrashError)
    assert "did not send the result" in str(error)


# -- files -----------------------------------------------------------------------------------


@on_processes
@pytest.mark.parametrize("noise", [b"x", b"x" * 17, b"x" * 300, bytes(300)], ids=range(4))
def test_a_call_that_writes_to_every_open_file_is_none_the_worse(isolated, noise):
    spoil = isolated(lambda: with_every_file(lambda fd: os.write(fd, noise)) or "done", wall_time=9)
    for _ in range(3):
        assert spoil() == "done"


@on_processes
def test_a_call_that_cuts_short_every_open_file_is_none_the_worse(isolated):
    spoil = isolated(lambda: with_every_file(lambda fd: os.ftruncate(fd, 0)) or 1, wall_time=9)
    for _ in range(3):
        assert spoil() == 1
        assert isinstance(isolated(time.sleep, wall_time=0.1).run(60).exception, exceptions.Breach)


@on_processes
def test_a_call_that_closes_every_open_file_is_run_once_and_told_so(isolated, tmp_path):
    count = tmp_path / "count"

    def spoil():
        with count.open("a") as file:
            file.write("x")
        with_every_file(os.close)

    error = isolated(spoil, wall_time=30).run().exception
    assert isinstance(error, exceptions.CrashError)
    assert "a file descriptor that is not its own" in str(error)
    assert count.read_text() == "x"
    assert isolated(abs, wall_time=30)(-1) == 1


@on_processes
def test_a_call_that_closes_low_files_as_a_daemon_does_is_none_the_worse(isolated):
    for lowest in (3, 0):
        assert isolated(lambda n: os.closerange(n, 256), wall_time=30).run(lowest).ok
        assert isolated(abs, wall_time=30)(-1) == 1


@on_processes
def test_a_child_that_returns_from_the_call_too_is_not_heard(isolated):
    def split():
        if os.fork() == 0:
            return "child"
        time.sleep(0.2)
        return "parent"

    for _ in range(3):
        assert isolated(split, wall_time=30)() == "parent"
    assert isolated(abs, num_processes=1)(-1) == 1


@on_processes
def test_cpu_time_of_children_that_nobody_waits_for_counts(isolated):
    def ignore():
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        spin = "import time; t = time.process_time() + 0.15\nwhile time.process_time() < t: pass"
        for _ in range(20):
            subprocess.Popen([sys.executable, "-c", spin]).wait()

    def leave_zombies():
        for _ in range(1000):
            child = os.fork()
            if child == 0:
                while time.process_time() < 0.006:
                    pass
                os._exit(0)
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)

    for burn in (ignore, leave_zombies):
        assert isinstance(isolated(burn, cpu_time=0.6).run().exception, exceptions.CpuTimeBreach)


@on_processes
def test_what_a_call_has_left_running_does_not_keep_it_from_ending(isolated):
    def leave():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Thread(target=time.sleep, args=(600,)).start()
        subprocess.Popen(SPIN)
        return "left"

    assert isolated(leave, wall_time=50)() == "left"
    nothing_goes_on()


# -- the next call ---------------------------------------------------------------------------

CHANGES = {
    "directory": (lambda: os.chdir("/"), os.getcwd),
    "environment": (lambda: os.environ.update(HARM="1"), lambda: os.environ.get("HARM")),
    "path": (lambda: sys.path.insert(0, "/harm"), lambda: list(sys.path)),
    "umask": (lambda: os.umask(0o123) and None, lambda: os.umask(0o77)),
    "rlimit": (
        lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
        lambda: resource.getrlimit(resource.RLIMIT_NOFILE),
    ),
    "handler": (
        lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN) and None,
        lambda: repr(signal.getsignal(signal.SIGUSR1)),
    ),
    "mask": (
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]) and None,
        lambda: sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    ),
    "timer": (lambda: signal.alarm(1) and None, lambda: signal.getitimer(signal.ITIMER_REAL)),
    "nice": (lambda: os.nice(5) and None, lambda: os.nice(0)),
    "stdout": (lambda: setattr(sys, "stdout", None), lambda: sys.stdout is None),
    "file of stdout": (lambda: os.close(1), lambda: Path("/proc/self/fd/1").readlink()),
    "socket timeout": (lambda: socket.setdefaulttimeout(0.1), socket.getdefaulttimeout),
    "profile": (lambda: sys.setprofile(lambda *_: None), lambda: sys.getprofile() is None),
    "daemon thread": (
        lambda: threading.Thread(target=time.sleep, args=(60,), daemon=True).start(),
        threading.active_count,
    ),
}


@on_each("clean")
@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_what_a_call_changes_about_its_process_the_next_call_does_not_find(isolated, change):
    harm, look = CHANGES[change]
    # One function makes all these calls: those of several never share a process that is clean.
    run = isolated(lambda fn: fn(), wall_time=30)
    before = run(look)
    for _ in range(2):
        run(harm)
        assert run(look) == before


def test_a_call_that_comes_while_its_process_ends_as_unfit_runs_in_another():
    def leave():
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

    with Guardian() as guardian:
        for n in range(150):
            assert guardian.run(leave, (), {}).ok
            time.sleep(n % 10 * 0.0002)  # anywhere within the time in which it ends
            assert guardian.run(abs, (-n,), {}).result() == n


def test_a_process_ends_after_as_many_calls_as_it_may_run():
    limits = Limits(isolation="warm")  # a clean one may end before, if a call has to wait
    with Guardian(max_calls_per_process=3) as guardian:
        pids = [guardian.run(os.getpid, (), {}, limits).result() for _ in range(9)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]


def test_a_process_that_has_grown_is_not_used_again():
    def hoard(megabytes):
        sys.modules["builtins"].hoard = b"x" * (megabytes * 2**20)
        return os.getpid()

    with Guardian() as guardian:

        def pid_after(fn, *args):
            return guardian.run(fn, args, {}, Limits(isolation="warm")).result()

        first = pid_after(os.getpid)
        assert pid_after(hoard, 20) == first
        assert pid_after(hoard, 400) == first
        assert pid_after(os.getpid) != first
    with Guardian() as guardian:  # what its first call needs it may keep
        assert pid_after(hoard, 400) == pid_after(os.getpid)
