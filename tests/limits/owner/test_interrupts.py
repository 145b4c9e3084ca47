"""Signals that interrupt the owner anywhere in a call, and calls in their handlers."""

import subprocess
import sys

import pytest

_LOOK = """
import faulthandler; faulthandler.dump_traceback_later(90, exit=True)
import gc, os, random, signal, sys, threading, time
from dask_limits.limits import limit, run_call
from dask_limits.limits.linux.proctree import children_of
from dask_limits.limits.owner.guardian import default_guardian

def echo(x, seconds=0):
    time.sleep(seconds)
    return x

def files():
    links = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(link) for link in links if os.path.lexists(link))

def mapped():
    with open("/proc/self/maps") as maps:
        return sum("dask-limits-p" in line for line in maps)  # payload, and progress

def expect_nothing_left(before):
    connection = default_guardian()._connection
    idle = {lease.pid for leases in connection._idle.by_use.values() for lease in leases}
    assert {lease.pid for lease in connection._leases} == idle
    give_up_at = time.monotonic() + 60
    while True:
        left = [set(children_of(pid)) - idle for pid in children_of(connection.pid)]
        if len(left) == 1 and len(left[0]) <= 1:  # one is the spare
            if children_of(os.getpid()) == [connection.pid]:  # of two guardians one is closed
                break
        assert time.monotonic() < give_up_at, left
        time.sleep(0.01)
    del connection
    default_guardian().close()
    gc.collect()
    while files() != before or mapped():  # the thread that starts it may still close the other
        assert time.monotonic() < give_up_at, (set(files()) - set(before), mapped())
        time.sleep(0.01)
"""


def run_script(script, *args, first=""):
    """Run it after `_LOOK`. It must end well, and print nothing."""
    command = [sys.executable, "-X", "dev", "-c", first + _LOOK + script, *map(str, args)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("most_s", [0.0005, 0.003, 0.02])
def test_ctrl_c_at_any_moment_of_a_call_leaves_nothing(most_s):
    run_script(
        """
def report(unraisable):  # Python tells of a Ctrl-C in a finalizer, and goes on
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)

sys.unraisablehook = report
most_s = float(sys.argv[1])
large = bytearray(300_000)
calls = [
    lambda: limit(echo, wall_time=30)(1),
    lambda: limit(echo, wall_time=30)([large, large]),
    lambda: limit(echo, wall_time=30, capture_output=True)(large),
    lambda: limit(echo, wall_time=30)(1, 0.002),
    lambda: run_call(limit(echo, wall_time=30), (1,), {}, on_progress=id),
]
before = files()
signal.signal(signal.SIGALRM, signal.default_int_handler)
for n in range(400):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, most_s))
        calls[n % len(calls)]()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        pass
assert limit(echo, wall_time=30)(5) == 5
expect_nothing_left(before)
""",
        most_s,
    )


def test_calls_in_a_handler_that_interrupts_calls_work():
    run_script("""
before = files()
depth = calls = 0
failed = []

def interrupt_soon():
    # Once: where each call takes longer than the time between two, none comes to its end.
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.003))

def handle(*_):
    global depth, calls
    if depth == 3:
        return
    depth += 1
    try:
        calls += 1
        interrupt_soon()
        if limit(echo, wall_time=30)(7) != 7:
            failed.append("wrong")
    except BaseException as error:
        failed.append(error)
    depth -= 1

signal.signal(signal.SIGALRM, handle)
outer = limit(echo, wall_time=30)
give_up_at = time.monotonic() + 60
for n in range(200):
    interrupt_soon()
    assert outer(n) == n
    assert time.monotonic() < give_up_at
signal.setitimer(signal.ITIMER_REAL, 0)
assert not failed, failed
assert calls > 0
assert outer(1) == 1
expect_nothing_left(before)
""")


def test_calls_in_finalizers_work_whenever_these_run():
    run_script("""
import weakref
before = files()
inner, ended = limit(echo, wall_time=30), []

class Ends:
    def __init__(self):
        self.itself = self  # so that it ends whenever garbage is collected
        weakref.finalize(self, lambda: ended.append(inner(1)))
    def __del__(self):
        ended.append(inner(2))

gc.set_threshold(20)
def work():
    for n in range(60):
        Ends()
        assert limit(echo, wall_time=30)(n) == n
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()
work()
for thread in threads: thread.join()
gc.set_threshold(700)
while len(ended) < 360:
    gc.collect()  # does nothing while another thread collects: that which starts the guardian
    time.sleep(0.01)
assert sorted(ended) == [1] * 180 + [2] * 180, len(ended)
expect_nothing_left(before)
""")


def test_a_call_in_a_finalizer_in_the_thread_that_starts_the_guardian_works():
    run_script("""
before = files()
ended = []

class Ends:
    def __init__(self):
        self.itself = self
    def __del__(self):
        ended.append(limit(echo, wall_time=30)(1))

def collect(event, args):
    if event == "subprocess.Popen":
        gc.collect()

gc.disable()
Ends()
sys.addaudithook(collect)
assert limit(echo, wall_time=30)(2) == 2
while not ended:
    time.sleep(0.01)
assert ended == [1]
expect_nothing_left(before)
""")


def test_a_call_in_a_finalizer_while_the_interpreter_ends_works():
    run_script("""
class Ends:
    def __init__(self):
        self.itself = self
    def __del__(self):
        os._exit(limit(echo, wall_time=30)(0))

gc.set_threshold(0)  # so that it is found when no other thread goes on
Ends()
sys.exit(3)
""")


def test_calls_while_the_program_ends_and_in_its_forks_work():
    first = "import atexit; atexit.register(lambda: at_the_end())"  # what comes first is last
    run_script(
        """
def at_the_end():
    assert limit(echo, wall_time=30)(1) == 1
    assert limit(echo, wall_time=30)(2) == 2
    assert limit(time.sleep, wall_time=0.1).run(60).exception is not None
assert limit(echo, wall_time=30)(3) == 3
atexit.register(at_the_end)

forks = 0
def fork(*_):
    global forks
    forks += 1
    if (pid := os.fork()) == 0:
        try:
            assert limit(echo, wall_time=30)(4) == 4
            default_guardian().close()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0

signal.signal(signal.SIGALRM, fork)
for n in range(5):
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, 0.01))  # not again before its end
    while forks == n:
        assert limit(echo, wall_time=30)(n, 0.001) == n
""",
        first=first,
    )


@pytest.mark.parametrize("ending", ["", "sys.exit()"])
def test_a_program_that_ends_while_daemon_threads_call_prints_nothing(ending):
    run_script(f"""
def work():
    while True:
        assert limit(echo, wall_time=30)(1) == 1
        assert limit(echo, wall_time=30, capture_output=True)(1, 0.02) == 1

def wait():
    limit(time.sleep, wall_time=30)(20)

for target in (work, work, work, wait):
    threading.Thread(target=target, daemon=True).start()
time.sleep(random.uniform(0, 0.3))
{ending}
""")
