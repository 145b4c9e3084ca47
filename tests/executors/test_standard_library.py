"""The standard library's own tests of executors, with a `LimitedExecutor`.

Most installations of Python leave these tests out: `make test-standard-library` finds one that has
them.
"""

from __future__ import annotations

import itertools
import unittest
from pathlib import Path
from typing import Any

import pytest

from dask_limits import LimitedExecutor

theirs = pytest.importorskip("test.test_concurrent_futures.executor")

from test.test_concurrent_futures import (  # noqa: E402
    test_as_completed,
    test_shutdown,
    test_wait,
    util,
)

PRELUDE = """
import concurrent.futures, dask_limits, functools
concurrent.futures.LimitedExecutor = dask_limits.LimitedExecutor
concurrent.futures.WithJournal = functools.partial(dask_limits.LimitedExecutor, journal={!r})
"""


class WithJournal(LimitedExecutor):
    """Each has a journal of its own."""

    folder: Path
    numbers = itertools.count()

    def __init__(self, *where: Any, **given: Any) -> None:
        super().__init__(*where, **given, journal=self.folder / f"{next(self.numbers)}.sqlite")


class OurExecutor(util.ExecutorMixin):
    executor_type = LimitedExecutor


@pytest.fixture(autouse=True)
def a_folder_for_journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WithJournal, "folder", tmp_path, raising=False)


@pytest.fixture(autouse=True)
def programs_find_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Their programs import the executor from `concurrent.futures`."""
    run, prelude = test_shutdown.assert_python_ok, PRELUDE.format(f"{tmp_path}/run.sqlite")
    monkeypatch.setattr(
        test_shutdown, "assert_python_ok", lambda flag, text: run(flag, prelude + text)
    )


class TestExecutor(OurExecutor, theirs.ExecutorTest, util.BaseTestCase):
    @unittest.skip("the message is that of other wrong numbers here")
    def test_max_workers_negative(self) -> None:
        pass


class TestShutdown(OurExecutor, test_shutdown.ExecutorShutdownTest, util.BaseTestCase):
    @unittest.skip("shutdown(cancel_futures=True) ends running calls here, so none is left")
    def test_cancel_futures(self) -> None:
        pass


class TestWait(OurExecutor, test_wait.WaitTests, util.BaseTestCase):
    pass


class TestAsCompleted(OurExecutor, test_as_completed.AsCompletedTests, util.BaseTestCase):
    pass


class TestExecutorWithJournal(TestExecutor):
    executor_type = WithJournal


class TestShutdownWithJournal(TestShutdown):
    executor_type = WithJournal


class TestWaitWithJournal(TestWait):
    executor_type = WithJournal


class TestAsCompletedWithJournal(TestAsCompleted):
    executor_type = WithJournal
