"""Signals from calls to the processes that watch them."""

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
from processes import until

from dask_limits.limits.owner.guardian import Guardian

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest

NUMBERS = sorted({*range(1, 65)} - {signal.SIGKILL, signal.SIGSTOP})
"""All signals that a process can ignore; two of them are hidden by the C library."""


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


@pytest.fixture
def guardian():
    with Guardian() as it:
        yield it


def test_a_signal_to_our_processes_ends_nothing(guardian):
    before = guardian.run(ours_above, (), {}).result()
    assert len(before) >= 2
    for number in NUMBERS:
        outcome = guardian.run(signal_all, ([number],), {})
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


@pytest.mark.parametrize("ignored", [signal.SIGUSR1, signal.SIGQUIT, signal.SIGRTMIN], ids=int)
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
    before = guardian.run(ours_above, (), {}).result()
    assert guardian.run(signal_all, ([signal.SIGCHLD], 5000), {}).result() == before
    assert guardian.run(ours_above, (), {}).result() == before
