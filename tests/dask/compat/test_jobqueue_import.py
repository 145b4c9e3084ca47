"""Importing dask_jobqueue leaves signal handlers as they are."""

import subprocess
import sys

PROGRAM = """
import signal
import sys
import threading


def make():
    from dask_limits import Scheduler

    Scheduler.with_slurm(cores=1, memory="1 GiB")
    print("made")


if sys.argv[1] == "elsewhere":
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
else:
    make()
assert "dask_jobqueue" in sys.modules
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def made(where: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, where], check=True, capture_output=True, text=True
    ).stdout


def test_ctrl_c_stays_a_keyboard_interrupt():
    assert made("here") == "made\nTrue\n"


def test_a_scheduler_of_a_batch_system_can_be_made_in_any_thread():
    assert made("elsewhere") == "made\nTrue\n"
