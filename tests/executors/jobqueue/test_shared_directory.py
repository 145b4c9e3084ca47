"""The directory that the nodes share, and who removes it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from dask_limits.executors.jobqueue.shared_directory import SharedDirectory


@pytest.fixture
def shared(tmp_path):
    return tmp_path / "shared"


def test_the_directories_of_drivers_that_were_killed_are_removed_and_no_others(tmp_path, shared):
    code = f"""
        import os, signal
        from dask_limits.executors.jobqueue.shared_directory import SharedDirectory
        SharedDirectory({str(shared)!r})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)])
    (killed,) = shared.iterdir()
    here = SharedDirectory(str(shared))
    assert not killed.exists()
    failed = SharedDirectory(str(shared))
    (failed.path / "key").touch()
    (failed.logs / "job.out").write_text("no such module")
    failed.keep_logs = True
    failed.remove()
    assert here.path.exists()
    SharedDirectory(str(shared)).remove()
    here.remove()
    assert sorted(path.name for path in failed.path.iterdir()) == ["kept", "logs"]
    os.utime(failed.path / "kept", (0, 0))
    SharedDirectory(str(shared)).remove()
    assert not list(shared.iterdir())


def test_directories_of_the_user_stay_whatever_they_are_called(shared):
    results = shared / "run-2025" / "results"
    results.mkdir(parents=True)
    (shared / "run-2025" / "lock").touch()
    (shared / "run-old").mkdir()
    (shared / "run-old" / "kept").touch()
    os.utime(shared / "run-old" / "kept", (0, 0))
    SharedDirectory(str(shared)).remove()
    assert {path.name for path in shared.iterdir()} == {"run-2025", "run-old"}
    assert results.exists()


def test_a_parent_is_removed_by_the_one_that_has_made_it_if_nothing_else_is_in_it(tmp_path):
    parent = tmp_path / "a" / "b"
    first = SharedDirectory(str(parent))
    second = SharedDirectory(str(parent))
    first.remove()
    assert second.path.exists()
    second.remove()
    assert parent.exists()  # it was there before
    SharedDirectory(str(tmp_path / "c" / "d")).remove()
    assert not (tmp_path / "c").exists()


def test_drivers_that_come_while_others_go_each_have_their_directory(tmp_path):
    parent = tmp_path / "shared"

    def come_and_go(_: int) -> None:
        directory = SharedDirectory(str(parent))
        assert directory.logs.exists()
        directory.remove()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(come_and_go, range(400)))
    assert not parent.exists() or not list(parent.iterdir())
