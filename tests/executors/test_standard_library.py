"""The standard library's own tests of executors, with a `LimitedExecutor`.

Most installations of Python leave these tests out: `make test-standard-library` finds one that has
them.
"""

from __future__ import annotations

import unittest

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
import concurrent.futures, dask_limits
concurrent.futures.LimitedExecutor = dask_limits.LimitedExecutor
"""


class OurExecutor(util.ExecutorMixin):
    executor_type = LimitedExecutor


@pytest.fixture(autouse=True)
def programs_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their programs import the executor from `concurrent.futures`."""
    run = test_shutdown.assert_python_ok
    monkeypatch.setattr(
        test_shutdown, "assert_python_ok", lambda flag, text: run(flag, PRELUDE + text)
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
