"""Ends the processes that a call has left in its task process, before that answers.

So an outcome says that what the call had is free again: its memory, and what resource trackers know
of. The task process ends after the answer, as such a call leaves more than processes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any, Final

from dask_limits.limits.linux import proctree

_WAIT_S: Final = 3.0
"""It takes some ms, and some 30 for a resource tracker; on a busy machine a second. What takes
longer is in an uninterruptible sleep. It is the guardian's when this process has ended."""
_TRACKERS: Final = (
    "multiprocessing.resource_tracker",
    "loky.backend.resource_tracker",
    "joblib.externals.loky.backend.resource_tracker",
)


def end_left_processes() -> bool:
    """End all children of this process, zombies too, and what stands below. Whether there were any.

    It takes 1 us if there are none.
    """
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    # The call may have a handler for it, which must not run here.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    forget_trackers()
    give_up_at = time.monotonic() + _WAIT_S
    while (left := proctree.children_of(os.getpid())) and time.monotonic() < give_up_at:
        for pid in left:
            if not proctree.may_be_resource_tracker(pid):
                proctree.kill_tree(pid)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        time.sleep(0.001)
    return True


def forget_trackers() -> None:
    """Have resource trackers end that are used here, or that this process has inherited.

    One that is needed again is started again.
    """
    for name in _TRACKERS:
        tracker: Any = getattr(sys.modules.get(name), "_resource_tracker", None)
        if tracker is not None and tracker._fd is not None:
            os.close(tracker._fd)
            tracker._fd = tracker._pid = None
