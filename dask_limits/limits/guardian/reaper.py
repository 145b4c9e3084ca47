"""The program that an owner starts: a reaper and, below it, the guardian.

If the guardian is killed, task processes die with it, but not the processes that they have started.
The reaper only waits for that, and ends what is left. If the reaper itself is killed, the guardian
notices and ends everything.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from typing import NoReturn

from dask_limits.limits.guardian.leftovers import Leftovers
from dask_limits.limits.guardian.main import GuardianProcess
from dask_limits.limits.guardian.remains import Remains
from dask_limits.limits.guardian.template import collect_ended
from dask_limits.limits.ipc import owner_cells, transport
from dask_limits.limits.ipc.cells import Cells
from dask_limits.limits.linux import prctl, proctree, signals
from dask_limits.limits.task import temporary_folder


def main(control_fd: int, owner_cells_fd: int, folder: str) -> NoReturn:
    """Become a reaper, and start the guardian, which gets these files.

    Temporary folders of multiprocessing are made in `folder`.
    """
    _open_standard_files()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signals.ignore_all()  # we end with the owner
    prctl.set_readable(readable=False)  # calls have the same user
    # An owner may ignore it, and execve(2) keeps that.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    del sys.argv[1:]  # not for the functions that will run here
    # What a call has left is removed when it ends; nobody needs a warning about each. Python hands
    # these options on to the resource trackers that it starts.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    prefix = temporary_folder.prefix_in(folder)
    remains = Remains(prefix)
    temporary_folder.use(prefix)
    owner, reaper = os.getppid(), os.getpid()
    prctl.become_subreaper()
    guardian = os.fork()
    try:
        if guardian:
            os.close(control_fd)
            os.close(owner_cells_fd)
            prctl.set_name("limits-reaper")
            _wait_for_either(guardian, owner)
        else:
            prctl.become_subreaper()
            prctl.set_name("limits-guardian")
            cells = Cells(owner_cells.ROWS, owner_cells_fd)
            owner_cells.seal(owner_cells_fd)
            GuardianProcess(transport.adopt(control_fd), cells, remains, reaper).run()
        _end_children()
        remains.remove_all()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _open_standard_files() -> None:
    """Open the standard files if a daemon has closed them, so that no file of ours gets 0 to 2."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _wait_for_either(guardian: int, owner: int) -> None:
    """Wait for the end of the guardian, or of the owner."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while os.getppid() == owner:
        pid, status = os.waitpid(guardian, os.WNOHANG | os.WUNTRACED)
        if pid and not os.WIFSTOPPED(status):
            return
        if pid:  # by a call
            os.kill(guardian, signal.SIGCONT)
        signal.sigtimedwait({signal.SIGCHLD}, 1.0)


def _end_children() -> None:
    """End everything below this process, and wait for that, up to ten seconds."""
    give_up_at, leftovers = time.monotonic() + 10, Leftovers(all_end=True)
    while (children := proctree.children_of(os.getpid())) and time.monotonic() < give_up_at:
        leftovers.end(children)
        collect_ended()
        time.sleep(0.001)
