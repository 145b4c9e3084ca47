"""What happens when a process of ours is killed, at a bad moment."""

import gc
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from isolations import FRESH, on_processes
from our_processes import guardian_process, task_processes
from overdoing import wait_on
from processes import alive, until
from required import need, needs

from dask_limits import exceptions
from dask_limits.limits import CancelToken, LimitedCall, Limits
from dask_limits.limits.guardian.task_process import KILL_WAIT_S
from dask_limits.limits.ipc import owner_cells
from dask_limits.limits.owner.guardian import Guardian
from dask_limits.limits.owner.preload import NOTHING, Preload


def start_call(guardian, marker: Path, held_bytes=0):
    """Run, in a thread, a call that has started a detached grandchild; return when it has."""

    def linger(path):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                _held = b"x" * held_bytes
                Path(path).write_text(str(os.getpid()))
                time.sleep(600)
            os._exit(0)
        os.wait()
        time.sleep(600)

    outcomes = []
    thread = threading.Thread(
        target=lambda: outcomes.append(guardian.run(linger, (str(marker),), {}))
    )
    thread.start()
    until(lambda: marker.exists() and marker.read_text())
    return thread, outcomes


@contextmanager
def unkillable(pid):
    """The kernel tells the parent of a traced process of its end only when the tracer goes."""
    code = (
        "import ctypes, sys; ptrace = ctypes.CDLL(None).ptrace;"
        f"print(ptrace(0x4206, {pid}, None, None), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as tracer:
        need(tracer.stdout.readline() == "0\n", "the right to trace another process")
        try:
            yield
        finally:
            tracer.communicate("")


def processes_of(guardian):
    """Reaper, guardian, task processes and whatever calls have started."""
    reaper = psutil.Process(guardian._connection.pid)
    return [reaper, *reaper.children(recursive=True)]


def gone(processes):
    return not any(alive(process.pid) for process in processes)


def test_when_the_guardian_is_killed_all_goes_and_the_caller_is_told(guardian, tmp_path):
    thread, outcomes = start_call(guardian, tmp_path / "pid")
    below = processes_of(guardian)
    guardian_process = next(p for p in below if p.name() == "limits-guardian")
    guardian_process.kill()
    thread.join()
    assert isinstance(outcomes[0].exception, exceptions.GuardianLostError)
    until(lambda: gone(below))
    assert guardian.run(abs, (-1,), {}).result() == 1


def test_when_the_reaper_is_killed_all_goes_and_the_next_call_works(guardian, tmp_path):
    calls = [start_call(guardian, tmp_path / f"pid{n}") for n in range(3)]
    below = processes_of(guardian)
    below[0].kill()
    for thread, outcomes in calls:
        thread.join()
        assert isinstance(outcomes[0].exception, exceptions.GuardianLostError)
    until(lambda: gone(below))
    assert guardian.run(abs, (-1,), {}).result() == 1


def test_when_a_call_kills_its_template_the_calls_of_that_crash_and_the_next_one_works(
    guardian, tmp_path
):
    thread, outcomes = start_call(guardian, tmp_path / "pid")
    grandchild = psutil.Process(int((tmp_path / "pid").read_text()))

    def kill_template():
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)

    killed = guardian.run(kill_template, (), {})
    thread.join()
    for outcome in (killed, *outcomes):
        assert type(outcome.exception) is exceptions.CrashError
        assert outcome.exception.signal == signal.SIGKILL
    assert gone([grandchild])
    assert guardian.run(abs, (-1,), {}).result() == 1


def test_when_a_task_process_is_killed_its_call_is_told_so_and_its_children_go(guardian, tmp_path):
    thread, outcomes = start_call(guardian, tmp_path / "pid")
    grandchild = psutil.Process(int((tmp_path / "pid").read_text()))
    os.kill(next(iter(guardian._connection._leases)).pid, signal.SIGKILL)
    thread.join()
    assert isinstance(outcomes[0].exception, exceptions.CrashError)
    assert gone([grandchild])
    assert guardian.run(abs, (-1,), {}).result() == 1


def test_a_call_is_answered_when_what_it_detached_is_gone_however_long_that_takes(
    guardian, tmp_path
):
    for n in range(3):
        thread, _ = start_call(guardian, tmp_path / str(n), held_bytes=2**29)
        grandchild = psutil.Process(int((tmp_path / str(n)).read_text()))
        os.kill(next(iter(guardian._connection._leases)).pid, signal.SIGKILL)
        thread.join()
        assert gone([grandchild])


def test_a_detached_process_that_does_not_end_delays_the_answer_of_its_own_call_only(
    guardian, tmp_path
):
    def start(number, **options):
        thread, _ = start_call(guardian, tmp_path / number, **options)
        detached = psutil.Process(int((tmp_path / number).read_text()))
        (new,) = guardian._connection._leases - seen
        seen.add(new)
        return thread, new, detached

    def kill(lease):
        os.kill(lease.pid, signal.SIGKILL)
        cells = guardian._connection._owner_cells
        until(lambda: cells.get(lease.row, owner_cells.GONE))

    seen = set()
    first, first_process, stuck = start("1")
    second, second_process, _ = start("2")
    with unkillable(stuck.pid):
        killed_at = time.monotonic()
        kill(first_process)  # and wait: else both may be found at one time
        kill(second_process)
        second.join()
        assert first.is_alive() or time.monotonic() > killed_at + KILL_WAIT_S
        first.join()
        third, third_process, detached = start("3", held_bytes=2**29)
        kill(third_process)
        third.join()
        assert gone([detached])


def test_when_an_idle_task_process_is_killed_the_next_call_just_works(guardian):
    for _ in range(20):
        pid = guardian.run(os.getpid, (), {}).result()
        os.kill(pid, signal.SIGKILL)
        outcome = guardian.run(abs, (-1,), {})
        # Killed while idle, or in the instant in which it was handed the call: both can be.
        assert outcome.ok or isinstance(outcome.exception, exceptions.CrashError)
        assert guardian.run(abs, (-1,), {}).result() == 1


def test_when_a_task_process_has_been_gone_for_long_the_next_call_just_works(guardian):
    process = psutil.Process(guardian.run(os.getpid, (), {}).result())
    process.kill()
    until(lambda: not process.is_running())  # the guardian has waited for it
    assert guardian.run(abs, (-1,), {}).result() == 1


def test_a_cancel_that_comes_when_its_process_has_ended_harms_nobody(guardian):
    bystander = []
    thread = threading.Thread(target=lambda: bystander.append(guardian.run(time.sleep, (1.5,), {})))
    thread.start()
    for n in range(150):
        token = CancelToken()
        exiting = threading.Thread(
            target=lambda token=token: guardian.run(os._exit, (3,), {}, cancel=token)
        )
        exiting.start()
        time.sleep(n % 30 * 0.0001)  # anywhere within the 3 ms that such a call takes
        token.cancel()
        exiting.join()
    thread.join()
    assert bystander[0].ok


def test_when_an_idle_guardian_is_killed_the_next_call_just_works(guardian):
    for _ in range(3):
        assert guardian.run(abs, (-1,), {}).result() == 1
        below = processes_of(guardian)
        next(p for p in below if p.name() == "limits-guardian").kill()
        until(lambda below=below: gone(below))
        assert guardian.run(abs, (-1,), {}).result() == 1


def test_a_lost_guardian_leaves_nothing_to_the_garbage_collector(guardian):
    assert guardian.run(abs, (-1,), {}).result() == 1
    gc.collect()
    files = sum(1 for _ in Path("/proc/self/fd").iterdir())
    gc.disable()
    try:
        for _ in range(3):
            below = processes_of(guardian)
            next(p for p in below if p.name() == "limits-guardian").kill()
            until(lambda below=below: gone(below))
            assert guardian.run(abs, (-1,), {}).result() == 1
        until(lambda: sum(1 for _ in Path("/proc/self/fd").iterdir()) <= files, 20)
    finally:
        gc.enable()


@pytest.mark.parametrize("forked", [False, True], ids=["alone", "with a fork that lives on"])
def test_when_the_owner_is_killed_all_goes(tmp_path, forked):
    script = textwrap.dedent(
        f"""
        import os, time
        from dask_limits.limits import limit
        def linger():
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    open("lingers", "x").close()
                    time.sleep(600)
                os._exit(0)
            os.wait()
            time.sleep(600)
        limit(abs, wall_time=600)(1)
        if {forked} and os.fork() == 0:
            time.sleep(600)
        limit(linger, wall_time=600)()
        """
    )
    owner = psutil.Popen([sys.executable, "-c", script], cwd=tmp_path)
    until((tmp_path / "lingers").exists)
    below = owner.children(recursive=True)
    assert any(p.name() == "limits-task" for p in below)
    own_fork = [p for p in owner.children() if p.name() != "limits-reaper"]
    owner.kill()
    owner.wait()
    try:
        until(lambda: gone([p for p in below if p not in own_fork]))
    finally:
        for process in own_fork:
            process.kill()


@needs(os.geteuid() == 0, "root, who alone sees the open files of a guardian")
def test_a_guardian_that_can_open_no_more_files_refuses_calls_and_goes_on(guardian, capfd):
    with ThreadPoolExecutor(6) as pool:  # so that it has more open files than poll(2) waits for
        list(pool.map(lambda _: guardian.run(time.sleep, (0.5,), {}), range(6)))
    pid = guardian_process(guardian).pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    open_files = {int(link.name) for link in Path(f"/proc/{pid}/fd").iterdir()}
    lowest_free = min(set(range(len(open_files) + 1)) - open_files)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    outcomes = [guardian.run(bool, (0,), {})]
    guardian.preload = Preload.of(["email.message"])
    outcomes.append(guardian.run(abs, (-1,), {}))
    refusals = [str(o.exception) for o in outcomes if not o.ok]  # it may just have closed a file
    assert all("Too many open files" in refusal for refusal in refusals)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    guardian.preload = NOTHING
    assert guardian.run(abs, (-1,), {}).ok
    assert guardian_process(guardian).pid == pid
    assert capfd.readouterr().err == ""


def test_the_reaper_the_guardian_and_the_template_outlive_ctrl_c_and_sigterm(guardian):
    assert guardian.run(abs, (-1,), {}).ok
    below = processes_of(guardian)
    for process in below[:3]:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process.send_signal(number)
    assert guardian.run(os.getppid, (), {}).result() == below[2].pid


def test_ctrl_c_in_the_owner_ends_the_call_that_it_waits_for(tmp_path):
    script = textwrap.dedent(
        """
        import time
        from pathlib import Path
        from dask_limits.limits import limit
        def begin():
            Path("begun").touch()
            time.sleep(599)
        try:
            limit(begin, wall_time=600)()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    )
    owner = psutil.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=tmp_path)
    until((tmp_path / "begun").exists)
    below = owner.children(recursive=True)
    owner.send_signal(signal.SIGINT)
    out, _ = owner.communicate()
    assert b"interrupted" in out
    assert gone(below)


def test_a_fork_of_the_owner_gets_a_guardian_of_its_own(guardian):
    limits = Limits(isolation="warm")  # its process stays, however long a call takes
    pid = guardian.run(os.getpid, (), {}, limits).result()
    child = os.fork()
    if child == 0:
        try:
            other = guardian.run(os.getpid, (), {}, limits).result()
            guardian.close()
            os._exit(0 if other != pid else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert guardian.run(os.getpid, (), {}, limits).result() == pid


KINDS_OF_CALLS = {
    "plain": (LimitedCall(abs), (1,)),
    "captured": (LimitedCall(print, Limits(capture_output=True)), ("x",)),
    "graceful": (LimitedCall(abs, Limits(wall_time=20, grace_period=1)), (1,)),
    "large": (LimitedCall(len, Limits(wall_time=20)), (bytes(200_000),)),
    "large back": (LimitedCall(bytes, Limits(wall_time=20)), (200_000,)),
    "fresh": (FRESH(abs, wall_time=20), (1,)),
    "fresh and large": (FRESH(bytes, wall_time=20, capture_output=True), (200_000,)),
    "raising": (LimitedCall(int, Limits(wall_time=20)), ("x",)),
    "exiting": (LimitedCall(os._exit), (1,)),
    "breached": (LimitedCall(time.sleep, Limits(wall_time=0.02, capture_output=True)), (60,)),
    "unpicklable": (LimitedCall(threading.Lock), ()),
}


@pytest.mark.parametrize("kind", KINDS_OF_CALLS)
def test_many_calls_leak_no_file_and_no_process(guardian, kind):
    call, args = KINDS_OF_CALLS[kind]
    ends_its_process = kind in ("exiting", "breached")
    times = 40 if ends_its_process or kind.startswith("fresh") else 500
    own, settled = psutil.Process(), 5

    most = 4  # one of each function, one that goes, and the spare

    def files_of_its_process():
        return guardian.run(os.listdir, ("/proc/self/fd",), {}).result()

    for _ in range(settled):
        guardian.run(call.fn, args, {}, call.limits)
    inside, outside = len(files_of_its_process()), own.num_fds()
    until(lambda: len(task_processes(guardian)) <= most)
    above = guardian_process(guardian).num_fds()
    for _ in range(times):
        guardian.run(call.fn, args, {}, call.limits)
    assert len(files_of_its_process()) == inside
    assert own.num_fds() <= outside + 3  # task processes come and go
    until(lambda: len(task_processes(guardian)) <= most)
    # A file or two may be in the hands of the spare; one leaked a call would make it forty.
    until(lambda: guardian_process(guardian).num_fds() <= above + 3)


def test_a_reaper_that_is_killed_as_soon_as_it_has_its_name_ends_its_guardian():
    own = psutil.Process()
    for _ in range(15):
        with Guardian() as guardian:
            before, call = (
                set(own.children()),
                threading.Thread(target=guardian.run, args=(abs, (1,), {})),
            )
            call.start()
            until(lambda before=before: set(own.children()) - before)
            (reaper,) = set(own.children()) - before
            until(lambda reaper=reaper: reaper.name() == "limits-reaper")
            below = reaper.children(recursive=True)
            reaper.kill()
            until(lambda below=below: gone(below))
            call.join()


@pytest.mark.parametrize(
    "name", ["limits-guardian", "limits-reaper", "limits-template", "limits-task"]
)
@on_processes
def test_whatever_is_killed_at_whatever_moment_calls_end_and_the_next_one_works(isolated, name):
    chance = random.Random(name)
    stop = threading.Event()
    with Guardian() as guardian:
        guardian.run(abs, (1,), {})

        def kill_now_and_then():
            while not stop.wait(chance.uniform(0.002, 0.08)):
                connection = guardian._connection
                if connection is None:
                    continue
                try:
                    reaper = psutil.Process(connection.pid)
                    found = [p for p in (reaper, *reaper.children(True)) if p.name() == name]
                    if found:
                        chance.choice(found).kill()
                except psutil.NoSuchProcess:
                    pass

        def call(n):
            outcome = guardian.run(pow, (2, n), {}, isolated(pow, wall_time=20).limits)
            assert outcome.exception is not None or outcome.value == 2**n
            return outcome

        killer = threading.Thread(target=kill_now_and_then)
        killer.start()
        outcomes = [call(n) for n in range(30)]
        stop.set()
        killer.join()
        for outcome in outcomes:
            assert outcome.ok or isinstance(outcome.exception, exceptions.CallError)
        # The last one that was killed may just be going: a reaper, say, and then the others.
        until(lambda: call(3).ok and alive(guardian._connection.pid))
        below = processes_of(guardian)
    assert gone(below)


def test_an_owner_that_is_killed_at_whatever_moment_leaves_nothing():
    script = textwrap.dedent(
        """
        import os, subprocess, time
        from dask_limits.limits import limit
        def start():
            subprocess.Popen(["sleep", "600"], start_new_session=True)
        print("ready", flush=True)
        while True:
            limit(start, wall_time=0.05)()
            limit(abs, isolation="fresh")(1)
        """
    )
    for n in range(8):
        owner = psutil.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        owner.stdout.readline()
        time.sleep(n * 0.1)  # anywhere within its calls
        below = owner.children(recursive=True)
        owner.kill()
        owner.wait()
        owner.stdout.close()
        until(lambda below=below: gone(below))


@pytest.mark.parametrize(
    "limits",
    [
        {"wall_time": 0.5, "isolation": "warm"},
        {"wall_time": 0.3, "grace_period": 0.3, "isolation": "warm"},
        {"wall_time": 0.5, "isolation": "fresh"},
    ],
    ids=["warm", "with a grace period", "fresh"],
)
def test_a_process_that_cannot_be_killed_holds_up_nobody(limits):
    outcomes = []
    with Guardian() as guardian:
        thread = threading.Thread(
            target=lambda: outcomes.append(guardian.run(wait_on, (), {}, Limits(**limits)))
        )
        guardian.run(abs, (1,), {}, Limits(isolation=limits["isolation"]))
        task_process = next(iter(guardian._connection._leases)).pid
        with unkillable(task_process):
            thread.start()
            thread.join(30)
            assert not thread.is_alive()
            assert guardian.run(abs, (-1,), {}).result() == 1
    error = outcomes[0].exception
    assert isinstance(error, exceptions.WallTimeBreach)
    assert "does not end because it is in an uninterruptible sleep" in str(error)
    assert error.usage.exit_code is None
