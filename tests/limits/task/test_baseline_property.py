"""A process in which calls have run, and that passes for fit, is what it was before the first.

`DASK_LIMITS_PROPERTY_SECONDS=3600` makes each search go on for an hour.
"""

import asyncio
import contextvars
import ctypes
import os
import select
import signal
import time
import traceback
import warnings

import pytest
from changing import CHANGES, change
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from process_view import differences, of_no_library, view
from required import need_root

from dask_limits.limits.ipc import task_cells
from dask_limits.limits.linux import prctl
from dask_limits.limits.task.baseline import Baseline
from dask_limits.limits.task.process_state import Setting
from dask_limits.limits.task.random_state import RandomStates

SECONDS = float(os.environ.get("DASK_LIMITS_PROPERTY_SECONDS", "4"))
NOBODY = 65534
SHORTEST = 1e-5  # seconds that a call takes which changes something
REPORT = 900  # a number above those of the files that a task process has
RESTORED = [
    *[("use_and_tidy_up", n) for n in range(4)],
    *[("change_the_environment", n) for n in range(72)],
    *[("change_directory", n) for n in range(3)],
    *[("change_stacks", n) for n in (0, 1, 3, 4)],
    *[("change_libraries", n) for n in (0, 1, 2, 3, 4, 7, 10)],
    *[("change_sys", n) for n in (1, 3, 13, 18, 19, 22, 61)],
    *[("change_gc", 1), ("set_a_wakeup_file", 0)],
]
"""Changes after which a process is used again."""
STEPS = st.lists(st.tuples(st.sampled_from(sorted(CHANGES)), st.integers(0, 10_000)), max_size=8)


def in_child(function, *arguments):
    """The text that a function returns in a child process; "ended" if it ends that process."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.dup2(write, REPORT, inheritable=False)
            os.closerange(3, REPORT)
            text = function(*arguments)
        except BaseException:
            text = traceback.format_exc()
        try:
            os.write(REPORT, text.encode())
        finally:
            os._exit(0)
    os.close(write)
    try:
        if not select.select([read], [], [], 60)[0]:
            os.kill(pid, signal.SIGKILL)
            return "it hangs"
        return os.read(read, 100_000).decode() or "ended"
    finally:
        os.close(read)
        os.waitpid(pid, 0)


def settle_in(root):
    """Become like a task process, of root or of nobody."""
    if not root:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as after an execve(2)
    asyncio.set_event_loop_policy(None)  # as before the first loop, which another test has made
    prctl.become_subreaper()
    prctl.die_with_parent(signal.SIGKILL)
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.resetwarnings()  # pytest makes errors of them
    cells = task_cells.TaskCells(task_cells.make())
    cells.collect_stacks()
    return Baseline(cells, RandomStates()), Setting.here().for_another_process()


def live_through(steps, root, keep):
    """Make these changes, one a call. Says which of them has left a difference."""
    baseline, setting = settle_in(root)
    before = in_call(view)
    for name, number in steps:
        baseline.restore(setting, keep, busy=0)  # as after a call that has done nothing
        in_call(attempt, name, number)
        if not baseline.restore(setting, keep, busy=SHORTEST):
            return f"unfit after {name} {number}"
        found = differences(before, in_call(view))
        if found := of_no_library(found) if keep else found:
            return "\n".join([f"{name} {number} leaves", *found])
    return "fit"


def in_call(function, *arguments):
    return contextvars.copy_context().run(function, *arguments)


def attempt(name, number):
    try:
        change(name, number)
    except Exception:
        pass  # it may not do that, or no longer can


@pytest.fixture(params=[True, False], ids=["root", "nobody"])
def root(request):
    need_root()
    return request.param


@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("keep", [False, True], ids=["clean", "warm"])
def test_a_process_that_passes_for_fit_is_what_it_was(root, keep):
    @settings(
        max_examples=50,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(STEPS)
    def look(steps):
        if (key := tuple(steps)) not in known and time.monotonic() < until:
            known[key] = in_child(live_through, steps, root, keep)
        found = known.get(key, "fit")  # once the time is over, no more are tried
        assert found in ("fit", "ended") or found.startswith("unfit"), found

    until, known = time.monotonic() + SECONDS, {}
    while time.monotonic() < until:
        look()


def test_a_process_is_used_again_after_what_can_be_restored():
    assert in_child(live_through, RESTORED * 2, True, False) == "fit"
