from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import until
from real_slurm import Slurm, start, stop
from required import need
from slurm_faults import MARK, Run, marked


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the first test of each file time enough to install SLURM."""
    seen: set[Path] = set()
    for item in items:
        if Path(__file__).parent in item.path.parents and item.path not in seen:
            seen.add(item.path)
            item.add_marker(pytest.mark.timeout(600))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Have a test that fails show what SLURM knows of its jobs."""
    report = yield
    slurm = getattr(item, "funcargs", {}).get("slurm")
    if report.failed and slurm is not None:  # type: ignore[attr-defined]
        report.sections.append(("SLURM", slurm.state_of_all()))  # type: ignore[attr-defined]
    return report


def new_folder() -> Path:
    """A folder that the user munge can reach, unlike those of pytest."""
    return Path(tempfile.mkdtemp(prefix="dask-limits-slurm-", dir="/tmp"))


@pytest.fixture(scope="session")
def slurm_of_the_session() -> Iterator[Slurm]:
    folder = new_folder()
    try:
        slurm = start(folder, "--with", str(os.getpid()))
    except subprocess.CalledProcessError as error:
        stop(folder)
        need(False, f"a SLURM: {error.stderr}")
    yield slurm
    stop(folder)


@pytest.fixture(scope="module")
def slurm(slurm_of_the_session: Slurm) -> Iterator[Slurm]:
    """A real SLURM that `sbatch` and the like find. It has no jobs before and after."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(slurm_of_the_session.configuration))
        yield slurm_of_the_session
    slurm_of_the_session.clear()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in which a test can start its own SLURM."""
    folder = new_folder()
    yield folder
    assert not folder.exists()


@pytest.fixture
def new_run(slurm: Slurm, tmp_path: Path, monkeypatch) -> Iterator[Callable[..., Run]]:
    """Makes runs. At the end, no job, process or file of theirs may be left."""
    monkeypatch.setenv(MARK, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # for the functions that jobs call
    try:
        yield lambda **options: Run(tmp_path, **options)
        assert not slurm.jobs()
        until(lambda: not marked(tmp_path), 15)
        left = [path for path in (tmp_path / "shared").rglob("*") if path.is_file()]
        assert {path.parent.name for path in left if path.name != "kept"} <= {"logs"}
    finally:
        slurm.clear()
