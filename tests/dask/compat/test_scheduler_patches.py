"""Methods of a scheduler that were replaced are as they were when that is undone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from types import SimpleNamespace

import pytest

from dask_limits.dask.compat import scheduler as compat
from dask_limits.dask.compat.undocumented_name import Name

METHODS = ("is_rootish", "decide_worker_non_rootish")


class Scheduler:
    """What is patched of Dask's; `tests/dask/scheduler/test_patches.py` has the real one."""

    def __init__(self) -> None:
        self.extensions = {"stealing": SimpleNamespace(steal_time_ratio=lambda ts: "steal")}

    def is_rootish(self, ts: object) -> str:
        return "root"

    def decide_worker_non_rootish(self, ts: object) -> str:
        return "worker"


def says(word: str) -> compat.Wrap:
    return lambda original: lambda ts: f"{word} {original(ts)}"


def patched(scheduler: Scheduler, word: str) -> Callable[[], None]:
    undo = compat.replace_placement(scheduler, says(word), says(word), says(word))
    assert undo is not None
    return undo


def answers(scheduler: Scheduler) -> list[str]:
    stealing = scheduler.extensions["stealing"]
    return [
        scheduler.is_rootish(1),
        scheduler.decide_worker_non_rootish(1),
        stealing.steal_time_ratio(1),
    ]


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_patches_on_top_of_each_other_are_undone_in_any_order(order: tuple[int, ...]) -> None:
    scheduler = Scheduler()
    before = answers(scheduler)
    steal = scheduler.extensions["stealing"].steal_time_ratio
    undos = [patched(scheduler, word) for word in "abc"]
    words = {0: "a", 1: "b", 2: "c"}
    assert answers(scheduler)[0] == "c b a root"
    for n in order:
        undos[n]()
        undos[n]()  # once more does no harm
        del words[n]
        left = " ".join([words[n] for n in sorted(words, reverse=True)])
        assert answers(scheduler) == [f"{left} {one}".strip() for one in before]
    assert not set(METHODS) & vars(scheduler).keys()
    assert scheduler.extensions["stealing"].steal_time_ratio is steal


def test_a_scheduler_that_does_not_steal_is_patched_too() -> None:
    scheduler = Scheduler()
    scheduler.extensions = {}
    undo = patched(scheduler, "a")
    assert scheduler.is_rootish(1) == "a root"
    undo()
    assert scheduler.is_rootish(1) == "root"


@pytest.mark.parametrize("path", compat._PLACEMENT)
def test_nothing_is_patched_in_a_dask_that_lacks_one_of_the_methods(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Name("distributed", "distributed.scheduler:Scheduler.gone", "", "", "")
    monkeypatch.setitem(compat._PLACEMENT, path, gone)
    scheduler = Scheduler()
    before = vars(scheduler).copy()
    assert compat.replace_placement(scheduler, says("a"), says("a"), says("a")) is None
    assert vars(scheduler) == before
