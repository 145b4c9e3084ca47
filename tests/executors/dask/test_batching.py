"""How many calls go together, and which of them wait, by a clock that the tests set."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pytest

from dask_limits.dask.packed_call import PackedCall
from dask_limits.executors.dask.batching import Batching
from dask_limits.executors.dask.submissions import Submission
from dask_limits.future import Future
from dask_limits.limits.ipc.payload import Packed


def calls(n: int, kind: Hashable = "kind", size: int = 10) -> list[Submission]:
    made = []
    for _ in range(n):
        one = Submission(PackedCall("call", Packed(bytes(size)), 0), [], {}, "limits", {}, {}, kind)
        one.future = Future()
        made.append(one)
    return made


@pytest.fixture
def batching() -> Batching:
    made = Batching()
    made.cores = 2
    return made


def sizes(batching: Batching, now: float = 0) -> list[int]:
    return [len(batch) for batch in batching.take(now)]


def learn(batching: Batching, seconds: float) -> None:
    batching.add(calls(1), 0)
    assert sizes(batching) == [1]
    batching.ended("kind", 1, seconds, 0)


def test_a_call_alone_goes_at_once(batching: Batching) -> None:
    for seconds in (0.0001, 10):
        learn(batching, seconds)
        batching.add(calls(1), 1)
        assert sizes(batching, 1) == [1]
        batching.ended("kind", 1, seconds, 1)


def test_calls_of_unknown_duration_go_one_by_one_and_the_others_wait_for_a_second(
    batching: Batching,
) -> None:
    batching.add(calls(100), 0)
    assert sizes(batching) == [1, 1, 1]
    assert sizes(batching, 0.9) == []
    look_at = batching.look_at(0)
    assert look_at is not None
    assert sizes(batching, look_at) == [1] * 97
    assert batching.look_at(2) is None


@pytest.mark.parametrize(
    ("seconds", "most"), [(0.04, 1), (0.03, 2), (0.02, 3), (0.005, 12), (0.001, 64), (0, 2048)]
)
def test_a_batch_takes_75_ms_or_less(seconds: float, most: int, batching: Batching) -> None:
    learn(batching, seconds)
    batching.add(calls(20_000), 0)
    assert sizes(batching, 1)[0] == most


def test_many_waiting_calls_go_at_once_in_full_batches(batching: Batching) -> None:
    learn(batching, 0.001)
    batching.add(calls(100_000), 0)
    found = sizes(batching)
    assert set(found) == {64}
    assert sum(found) > 99_900


def test_no_batch_has_more_than_its_share(batching: Batching) -> None:
    learn(batching, 0.001)
    batching.add(calls(30), 0)
    assert sizes(batching) == [8, 8, 8]
    batching.ended("kind", 8, 0.001, 0)
    assert sizes(batching) == []  # both cores have some
    batching.ended("kind", 8, 0.001, 0)
    assert sizes(batching) == [4]


def test_calls_that_are_submitted_as_others_end_go_in_batches_too(batching: Batching) -> None:
    learn(batching, 0.001)
    batching.add(calls(64), 0)
    assert sizes(batching) == [16, 16, 16]
    for round_ in range(10):
        now = round_ / 100
        batching.ended("kind", 16, 0.001, now)
        found = sizes(batching, now)
        for _ in range(16):
            batching.add(calls(1), now)
            found += sizes(batching, now)
        assert found == [16]


def test_held_calls_go_when_nothing_ends_for_a_while(batching: Batching) -> None:
    learn(batching, 0.001)
    batching.add(calls(30), 0)
    assert sizes(batching) == [8, 8, 8]
    assert sizes(batching, 0.09) == []
    assert sizes(batching, 0.11) == [6]


def test_nothing_is_held_where_the_cores_are_not_known(batching: Batching) -> None:
    batching.cores = 0
    batching.add(calls(30), 0)
    assert sizes(batching) == [1] * 30


def test_kinds_do_not_share_batches(batching: Batching) -> None:
    for kind in "ab":
        batching.add(calls(1, kind), 0)
        assert sizes(batching) == [1]
        batching.ended(kind, 1, 0.001, 0)
    both: list[Any] = [call for _ in range(6) for kind in "ab" for call in calls(1, kind)]
    batching.add(both, 0)
    batches = list(batching.take(0))
    assert [len(batch) for batch in batches] == [2] * 6
    assert [{call.kind for call in batch} for batch in batches] == [{"a"}] * 3 + [{"b"}] * 3


def test_large_calls_go_alone_and_cancelled_ones_not_at_all(batching: Batching) -> None:
    learn(batching, 0.001)
    batching.add(calls(4, size=2**20), 0)
    assert sizes(batching, 1) == [1, 1, 1, 1]
    waiting = calls(4)
    for call in waiting:
        call.future.cancel()
    batching.add(waiting, 2)
    assert sizes(batching, 2) == []
    assert batching.look_at(2) is None
