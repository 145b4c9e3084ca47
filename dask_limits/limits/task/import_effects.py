"""What imports do to this process beyond making modules, as far as that matters to forks of it."""

from __future__ import annotations

import os
from typing import NamedTuple

from dask_limits.limits.linux import proctree
from dask_limits.limits.task import interpreter_state, open_files, threads
from dask_limits.limits.task.generators import NewGenerators
from dask_limits.limits.task.kernel_state import KernelState
from dask_limits.limits.task.patches import Patches
from dask_limits.limits.task.random_state import Seeds


class Reading(NamedTuple):
    """What this process was like at one time, to be compared with another reading.

    Attributes:
        shared: What a fork would share with this process, or be without.
        changed: What is the same for all that runs in this process, or in a fork. Filters of
            warnings, environment, path and import hooks are not in it: packages change them for
            themselves.
    """

    shared: tuple[object, ...]
    changed: tuple[object, ...]


class ImportEffects:
    """Reads this process. It is to be closed before the process is forked.

    Attributes:
        generators: Of random numbers, that imports have made.
    """

    def __init__(self) -> None:
        self.generators = NewGenerators()
        self._seeds = Seeds()
        self._kernel = KernelState()
        self._patches = Patches()
        self._threads = self._missed = 0

    def read(self) -> Reading:
        """What it costs little to read. 30 us."""
        kernel, seeds = self._kernel.read(), self._seeds.read()
        shared = (
            self._missed_threads(),
            _children(),
            self._kernel.shared_memory(),
            self._kernel.read_what_a_fork_is_without(),
            self.generators.of_python(),
            open_files.count(),
            seeds,
        )
        changed = (
            kernel,
            seeds,
            self._kernel.read_what_is_restored(),
            self._kernel.read_what_libraries_change(),
            os.stat(".")[1:3],
            interpreter_state.settings(),
            interpreter_state.settings_of_libraries(),
            interpreter_state.settings_of_standard_library(),
            open_files.standard_identities(),
        )
        return Reading(shared, changed)

    def read_rarer(self, package: str = "") -> Reading:
        """The rest. Since the last time, this package was imported. 2 to 10 ms."""
        with open("/proc/self/maps", "rb") as maps:
            shared = sum(b"s" in line.split(None, 2)[1] for line in maps)
        return Reading((shared,), (*self._kernel.read_rarer(), self._patches.count(package)))

    def close(self) -> None:
        """Close its files."""
        self._kernel.close()
        self.generators.close()

    def _missed_threads(self) -> int:
        # A new one may not have the name yet that it gives itself.
        if (number := self._kernel.threads()) != self._threads or self._missed:
            self._threads, self._missed = number, threads.missed_by_a_fork()
        return self._missed


def _children() -> list[int]:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return []
    return proctree.children_of(os.getpid())
