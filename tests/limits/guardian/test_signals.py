"""Signals from calls to the processes that watch them."""

import functools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import cloudpickle
import psutil
import pytest
from overdoing import wait_on
from processes import until

from dask_limits import exceptions
from dask_limits.limits import Limits
from dask_limits.limits.owner.guardian import Guardian

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest

NUMBERS = sorted({*range(1, 65)} - {signal.SIGKILL, signal.SIGSTOP})
"""All signals that a process can ignore; two of them are hidden by the C library."""


WARM = Limits(isolation="warm")
"""All calls in one process, which has the same above it. Another may come from a later template."""


def ours_above():
    """The processes of ours above the one that runs a call."""
    found, process = [], psutil.Process().parent()
    while process.name().startswith("limits-"):
        found.append(process.pid)
        process = process.parent()
    return found


def signal_all(numbers, times=1):
    for _ in range(times):
        for pid in ours_above():
            for number in numbers:
                os.kill(pid, number)
    return ours_above()


def test_a_signal_to_our_processes_ends_nothing(guardian):
    before = guardian.run(ours_above, (), {}, WARM).result()
    assert len(before) >= 2
    for number in NUMBERS:
        outcome = guardian.run(signal_all, ([number],), {}, WARM)
        assert (number, outcome.exception, outcome.value) == (number, None, before)


def test_signals_to_our_processes_end_no_other_call(guardian, tmp_path):
    def begin():
        (tmp_path / "begun").touch()
        time.sleep(2)
        return "done"

    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(guardian.run(begin, (), {})))
    thread.start()
    until((tmp_path / "begun").exists)
    assert guardian.run(signal_all, (NUMBERS, 50), {}).ok
    thread.join()
    assert outcomes[0].value == "done"


@pytest.mark.parametrize("ignored", [signal.SIGUSR1, signal.SIGALRM, signal.SIGRTMIN], ids=int)
def test_a_call_ignores_the_signals_that_its_owner_ignores(tmp_path, ignored):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import signal, subprocess, sys
            from pathlib import Path
            from dask_limits import limit

            READ = "import re; print(re.findall('Sig[BI].*', open('/proc/self/status').read()))"

            def program():
                return subprocess.check_output([sys.executable, "-c", READ], text=True)

            if __name__ == "__main__":
                signal.signal({int(ignored)}, signal.SIG_IGN)
                here, there = program(), limit(program)()
                assert here == there, (here, there)
                signals = signal.valid_signals()
                here = [signal.getsignal(n) for n in signals]
                there = limit(lambda: [signal.getsignal(n) for n in signals])()
                differ = {{n for n, a, b in zip(signals, here, there) if a != b}}
                assert differ <= {{signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP}}, differ
            """
        )
    )
    subprocess.run([sys.executable, script], check=True, timeout=60)


def test_a_call_sees_the_signals_of_its_own(guardian):
    def handle():
        heard = []
        signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
        os.kill(os.getpid(), signal.SIGUSR1)
        return heard

    assert guardian.run(handle, (), {}).result() == [signal.SIGUSR1]
    assert guardian.run(os.kill, (0, signal.SIGUSR1), {}).exception is not None
    crash = guardian.run(lambda: os.kill(os.getpid(), 32), (), {}).exception
    assert crash is not None


def test_a_forged_end_of_a_child_harms_nothing(guardian):
    """SIGCHLD wakes our processes, and cannot be ignored."""
    before = guardian.run(ours_above, (), {}, WARM).result()
    assert guardian.run(signal_all, ([signal.SIGCHLD], 5000), {}, WARM).result() == before
    assert guardian.run(ours_above, (), {}, WARM).result() == before


# -- SIGSTOP, which cannot be ignored --------------------------------------------------------


def stop_all(times, then):
    above = ours_above()
    for _ in range(times):
        for pid in above:
            os.kill(pid, signal.SIGSTOP)
    then()


def go_on_stopping():
    above = ours_above()
    while True:
        for pid in above:
            os.kill(pid, signal.SIGSTOP)


def goes_on(pid):
    return psutil.Process(pid).status() != psutil.STATUS_STOPPED


@pytest.mark.parametrize("which", [0, -1], ids=["the guardian", "the reaper"])
def test_the_one_is_continued_by_the_other(guardian, which):
    pid = guardian.run(ours_above, (), {}, WARM).result()[which]

    def stop():
        for _ in range(20):
            os.kill(pid, signal.SIGSTOP)
            until(lambda: goes_on(pid))

    assert guardian.run(stop, (), {}, Limits(wall_time=60, isolation="warm")).ok


@pytest.mark.parametrize("captured", [False, True], ids=["plain", "captured"])
@pytest.mark.parametrize("way", [functools.partial(stop_all, 1), functools.partial(stop_all, 100)])
def test_a_call_that_stops_all_at_once_is_ended_at_its_limit(guardian, way, captured):
    limits = Limits(wall_time=0.5, capture_output=captured)
    outcome = guardian.run(way, (wait_on,), {}, limits)
    assert isinstance(outcome.exception, exceptions.WallTimeBreach | exceptions.GuardianLostError)
    assert guardian.run(abs, (-1,), {}).result() == 1


@pytest.mark.parametrize("captured", [False, True], ids=["plain", "captured"])
def test_a_call_that_goes_on_stopping_all_is_ended(guardian, captured):
    def stop_and_print():
        for pid in ours_above():
            if os.fork() == 0:
                while True:
                    os.kill(pid, signal.SIGSTOP)
        while True:
            print("x" * 1000)

    for call in (go_on_stopping, stop_and_print):
        outcome = guardian.run(call, (), {}, Limits(wall_time=0.5, capture_output=captured))
        error = outcome.exception
        assert isinstance(error, exceptions.WallTimeBreach | exceptions.GuardianLostError)
        assert guardian.run(abs, (-1,), {}).result() == 1


def test_a_guardian_that_was_stopped_can_be_closed():
    with Guardian() as guardian:
        reaper = psutil.Process(guardian.run(ours_above, (), {}).result()[-1])
        for process in (reaper, *reaper.children()):
            process.suspend()
    assert not reaper.is_running()


def test_an_owner_that_was_stopped_with_all_others_goes_on_with_all(tmp_path):
    """As in a job that SLURM suspends: nothing is taken for stopped by a call."""
    script = (
        "import time; from pathlib import Path; from dask_limits import limit\n"
        "def begin():\n"
        "    Path('begun').touch()\n"
        "    while not Path('go').exists(): time.sleep(0.01)\n"
        "    return 'done'\n"
        "if __name__ == '__main__': print(limit(begin, wall_time=100)())"
    )
    command = [sys.executable, "-c", script]
    with psutil.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as owner:
        until((tmp_path / "begun").exists)
        everyone = [owner, *owner.children(recursive=True)]
        for _ in range(2):
            for process in reversed(everyone):
                process.suspend()
            time.sleep(1)
            for process in everyone:
                process.resume()
        (tmp_path / "go").touch()
        assert owner.communicate()[0] == "done\n"
