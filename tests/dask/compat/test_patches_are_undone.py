"""What is changed in other people's modules for a block is as it was when no block is open."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import dask
import dask.dataframe.dask_expr._collection as dataframes
import joblib.parallel
import pytest
from dask.callbacks import Callback

from dask_limits import annotate
from dask_limits.dask.compat import jobqueue
from dask_limits.dask.compat.dropped_annotations import dataframes_do_not_warn
from dask_limits.dask.compat.joblib import sequential_instead_of_dask
from dask_limits.dask.graphs.annotations import shuffle_by_tasks
from dask_limits.dask.graphs.lost_limits import warn_of_local_schedulers
from dask_limits.dask.graphs.optimization import keep_limits, keep_no_limits

Block = Callable[[], AbstractContextManager[object]]

METHODS = ("dataframe.shuffle.method", "array.rechunk.method")
OPTIMIZATIONS = ("array_optimize", "bag_optimize", "delayed_optimize")


def state() -> dict[str, object]:
    """All that a block may change."""
    return {
        "warnings of dataframes": dataframes._WARN_ANNOTATIONS,
        "shuffles": [dask.config.get(name, None) for name in METHODS],
        "callbacks": set(Callback.active),
        "backend of joblib": joblib.parallel.BACKENDS.get("dask"),
        "signal.signal": signal.signal,
    }


BLOCKS: dict[str, Block] = {
    "warnings of dataframes": dataframes_do_not_warn,
    "shuffles": shuffle_by_tasks,
    "callbacks": warn_of_local_schedulers,
    "backend of joblib": sequential_instead_of_dask,
    "signal.signal": jobqueue.no_handlers_here,
    "annotate": lambda: annotate(wall_time=60),
}
block = pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)


@pytest.fixture(autouse=True)
def dask_warns_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops by itself after its first warning in a process."""
    monkeypatch.setattr(dataframes, "_WARN_ANNOTATIONS", True)


@pytest.mark.parametrize("changed", [name for name in BLOCKS if name != "annotate"])
def test_a_block_changes_what_it_is_for(changed: str) -> None:
    before = state()
    with BLOCKS[changed]():
        inside = state()
    assert {name for name in before if before[name] != inside[name]} == {changed}
    assert state() == before


@block
def test_a_nested_block_leaves_the_change_to_the_outer_one(block: Block) -> None:
    before = state()
    with block():
        inside = state()
        with block():
            assert state() == inside
        assert state() == inside != before
    assert state() == before


@block
def test_an_error_in_a_block_ends_the_change(block: Block) -> None:
    before = state()
    with contextlib.suppress(ZeroDivisionError), block():
        raise ZeroDivisionError
    assert state() == before


@block
@pytest.mark.parametrize("leaves_first", [0, 1], ids=["first in, first out", "last in, first out"])
def test_blocks_of_two_threads_that_overlap_end_the_change_together(
    block: Block, leaves_first: int
) -> None:
    before = state()
    entered = [threading.Event(), threading.Event()]
    leave = [threading.Event(), threading.Event()]

    def run(n: int) -> None:
        with block():
            entered[n].set()
            leave[n].wait(20)

    threads = [threading.Thread(target=run, args=[n]) for n in range(2)]
    for thread, is_in in zip(threads, entered, strict=True):
        thread.start()
        assert is_in.wait(20)
    inside = state()
    for n in (leaves_first, 1 - leaves_first):
        assert state() == inside != before
        leave[n].set()
        threads[n].join()
    assert state() == before


def test_optimizations_that_keep_limits_can_be_taken_back() -> None:
    keep_no_limits()
    before = [dask.config.get(name, None) for name in OPTIMIZATIONS]
    keep_limits()
    keep_limits()
    assert None not in [dask.config.get(name, None) for name in OPTIMIZATIONS]
    keep_no_limits()
    assert [dask.config.get(name, None) for name in OPTIMIZATIONS] == before == [None] * 3


def test_an_optimization_of_the_user_stays() -> None:
    keep_no_limits()
    with dask.config.set(array_optimize=None, bag_optimize=len):
        keep_limits()
        keep_no_limits()
        assert dask.config.get("bag_optimize") is len


def test_other_threads_can_set_signal_handlers_meanwhile() -> None:
    # They cannot but in the main thread: so the block is entered in another one.
    original = signal.getsignal(signal.SIGUSR1)
    with jobqueue.no_handlers_here():
        assert signal.signal(signal.SIGUSR1, signal.SIG_IGN) == original
        assert signal.getsignal(signal.SIGUSR1) == original
    done = threading.Event()
    inside = threading.Event()

    def hold() -> None:
        with jobqueue.no_handlers_here():
            inside.set()
            done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(20)
    try:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGUSR1, original)


def test_what_somebody_has_put_in_the_place_of_ours_stays_and_works() -> None:
    original = signal.signal
    with jobqueue.no_handlers_here():
        ours = signal.signal
        signal.signal = theirs = lambda *args: ours(*args)  # type: ignore[assignment]
    try:
        assert signal.signal is theirs
        before = signal.getsignal(signal.SIGUSR1)
        theirs(signal.SIGUSR1, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        theirs(signal.SIGUSR1, before)
    finally:
        signal.signal = original
