from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import for_everyone
import pytest
from required import need, need_root

from dask_limits.limits.owner.guardian import Guardian


@pytest.fixture
def guardian() -> Iterator[Guardian]:
    with Guardian() as guardian:
        yield guardian


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where modules of the user's are; the owner forgets them after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a module which the owner can import: the user's, or an installed one."""
    installed_ones = folder / "site-packages"
    installed_ones.mkdir()
    monkeypatch.syspath_prepend(str(installed_ones))

    def write(name: str, text: str, *, installed: bool = False) -> str:
        (installed_ones if installed else folder).joinpath(f"{name}.py").write_text(
            textwrap.dedent(text)
        )
        return name

    return write


@pytest.fixture
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has what calls import learned at once."""
    monkeypatch.setattr("dask_limits.limits.owner.templates._REST", 0)


@pytest.fixture
def run_for_everyone(tmp_path: Path) -> Callable[..., str]:
    """Run a program as root, where every user can run this interpreter. Returns what it prints."""
    need_root()
    need(for_everyone.is_possible(), "the right to mount")

    def run(*arguments: object) -> str:
        folder = tmp_path / "mounts"
        folder.mkdir()
        command = for_everyone.python(*arguments, where=folder)
        return subprocess.check_output(command, text=True, timeout=200)

    tmp_path.chmod(0o755)
    return run
