import shutil
import subprocess
import sys

import pytest
from required import need

PROGRAM = """
import ctypes, os, sys
from dask_limits import limit
CLONE_NEWPID = 0x20000000
if sys.argv[1] == "children":
    ctypes.CDLL(None).unshare(CLONE_NEWPID)
print(limit(abs, wall_time=30).run(-1).exception)
"""
PLACES = {
    "a PID namespace without a /proc of its own": ["--pid", "--fork"],
    "no /proc": ["--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"],
    "children in another PID namespace": [],
}


def run_in(place, who="all"):
    """Run the program there; return what it prints."""
    unshare = ["unshare", "--map-root-user", "--user", *place]
    tried = shutil.which("unshare") and subprocess.run([*unshare, "true"], check=False)
    need(tried and tried.returncode == 0, "the right to make namespaces")
    command = [*unshare, sys.executable, "-c", PROGRAM, who]
    return subprocess.check_output(command, text=True, stderr=subprocess.STDOUT, timeout=60)


@pytest.mark.parametrize("place", PLACES)
def test_calls_are_refused_where_proc_does_not_show_their_processes(place):
    printed = run_in(PLACES[place], "children" if "children" in place else "all")
    assert printed.startswith("abs() could not be started: no limit can be enforced, because /proc")
    assert printed.count("\n") == 1


def test_calls_run_in_a_pid_namespace_with_a_proc_of_its_own():
    assert run_in(["--pid", "--fork", "--mount-proc"]) == "None\n"


WAITS_FOR_A_PROCESSOR = """
import os, time
from dask_limits.limits.linux import prctl, proctree
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
other = os.fork()
if other == 0:
    prctl.die_with_parent(9)
    while True:
        pass
try:
    start, cpu_before = time.monotonic(), time.process_time()
    while time.process_time() < cpu_before + 0.5:
        pass
    waited = time.monotonic() - start - 0.5
    queued = proctree.queued_seconds()
    assert waited / 2 < queued, (waited, queued)
    time.sleep(0.01)  # whatever is queued has run
    before = proctree.queued_seconds()
    start = time.monotonic()
    time.sleep(1)
    assert proctree.queued_seconds() - before < 0.9 * (time.monotonic() - start)
finally:
    os.kill(other, 9)
"""


def test_waiting_for_a_processor_is_told_from_other_waiting():
    subprocess.run([sys.executable, "-c", WAITS_FOR_A_PROCESSOR], check=True, timeout=100)
