from __future__ import annotations

import compileall
import gc
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from clusters import start_forkserver
from hypothesis import HealthCheck, settings
from leftovers import Leftovers, close_default_guardian

import dask_limits

pytest.register_assert_rewrite("slurm_faults")  # before tests that use it import it
# On a busy machine an example may take a second, without being one that takes long.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
collect_ignore_glob = ["*/conftest.py"]  # pytest would look for doctests in them, by one name

_GUARDIAN_OF_ITS_OWN = {"capfd", "capfdbinary", "monkeypatch"}
"""Fixtures that change what a guardian takes over from its owner when it starts."""
_SHARING = {
    Path(__file__).parent / name
    for name in ("limits", "old_pynisher", "plugins", "scheduler", "sklearn")
}
"""Folders whose tests share the default guardian: many take less CPU time than to start one."""


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C interrupt, also where a shell has started this in the background.

    Compile the package, as installers do: where Python writes no bytecode, each of the thousands of
    programs and guardians that tests start would compile it, in nearly half of its CPU time.
    Have Dask fork its workers from a process that has imported Dask, which takes a fraction of the
    CPU time. For users it spawns them: so it does in the contract of executors, and in the programs
    that tests start.

    Have no example fail because it took long: on a busy machine, a step may wait for seconds.
    """
    settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("busy")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):  # once, in what starts the workers of pytest-xdist
        compileall.compile_dir(Path(dask_limits.__file__).parent, quiet=2)
    dask.config.set(
        {
            "distributed.worker.multiprocessing-method": "forkserver",
            "multiprocessing.context": "forkserver",
        }
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs Dask, or a SLURM: `-m "not dask and not slurm"` leaves it out.

    Its folder says so, or a parameter; what is neither has the marker where it is defined.
    """
    for item in items:
        words = {*item.path.parts, *re.split(r"\W", item.name.partition("[")[2])}
        if words & {"dask", "jobqueue"}:
            item.add_marker("dask")
        if "slurm" in words:
            item.add_marker("slurm")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Spare what is there by now, for good, from each look at what a test has left: 0.2 s each."""
    if any(item.get_closest_marker("dask") for item in session.items):
        start_forkserver()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test after which a process, a thread of ours or an open file is left that it made."""
    leftovers = Leftovers()
    changes_it = not _GUARDIAN_OF_ITS_OWN.isdisjoint(request.fixturenames)
    own_guardian = changes_it or _SHARING.isdisjoint(request.path.parents)
    if own_guardian:
        close_default_guardian()
    yield
    if own_guardian:
        close_default_guardian()
    leftovers.expect_none()


@pytest.fixture(scope="session", autouse=True)
def the_guardian_ends() -> Iterator[None]:
    """Some tests share the default guardian."""
    yield
    close_default_guardian()
