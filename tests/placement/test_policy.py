"""Reservations: never more than there is, nobody starves, nothing waits that could run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dask_limits.placement.policy import Placement
from dask_limits.placement.queue import Queue, WaitingCall
from dask_limits.placement.resources import (
    FreeResources,
    Refusal,
    Request,
    WorkerResources,
    refusal,
)
from dask_limits.placement.workers import Worker

requests = st.builds(
    Request,
    memory=st.integers(0, 12),
    cores=st.integers(1, 3),
    seconds=st.sampled_from([0, 1, 5, 50]),
)


def started(placement: Placement, now: float = 0) -> list[tuple[object, str]]:
    return [(start.key, start.worker) for start in placement.place(now) if not start.prefetched]


class Cluster(RuleBasedStateMachine):
    """Any order of calls, ends, workers that come, go and pause, and passing time."""

    def __init__(self) -> None:
        super().__init__()
        self.placement = Placement(is_quick=lambda key: int(str(key)) % 2 == 0)
        self.requests: dict[int, Request] = {}
        self.workers: dict[str, WorkerResources] = {}
        self.closed: set[str] = set()
        self.running: dict[int, str] = {}
        self.prefetched: dict[int, str] = {}
        self.now = 0.0
        self.number = 0

    def place(self) -> None:
        for key, worker, prefetched in list(self.placement.place(self.now)):
            assert worker not in self.closed
            request, resources = self.requests[key], self.workers[worker]
            assert request.seconds <= resources.ends_at - resources.margin - self.now
            if prefetched:
                assert worker not in self.prefetched.values()
                # All threads of Dask's worker are taken, or the call would begin at once.
                here = [self.requests[k] for k, name in self.running.items() if name == worker]
                assert sum(request.cores > 0 for request in here) == resources.cores
                self.prefetched[key] = worker
            else:
                self.running[key] = worker

    @rule(memory=st.integers(5, 12), cores=st.integers(1, 4), left=st.sampled_from([3, 30, None]))
    def a_worker_comes(self, memory: int, cores: int, left: int | None) -> None:
        self.number += 1
        ends_at = math.inf if left is None else self.now + left
        resources = WorkerResources(memory, cores, ends_at, margin=0 if left is None else 1)
        self.workers[f"w{self.number}"] = resources
        self.placement.add(f"w{self.number}", resources)

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def a_worker_goes(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.workers)))
        self.placement.remove(name)
        del self.workers[name]
        self.closed.discard(name)
        self.running = {key: worker for key, worker in self.running.items() if worker != name}
        self.prefetched = {key: worker for key, worker in self.prefetched.items() if worker != name}

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def a_worker_pauses_or_goes_on(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.workers)))
        self.closed ^= {name}
        self.placement.set_open(name, name not in self.closed)

    @rule(request=requests, order=st.integers(0, 3))
    def a_call_comes(self, request: Request, order: int) -> None:
        self.number += 1
        self.requests[self.number] = request
        self.placement.enqueue(WaitingCall(self.number, request, order))

    @precondition(lambda self: self.placement.waiting)
    @rule(data=st.data())
    def a_waiting_call_is_cancelled(self, data: st.DataObject) -> None:
        self.placement.dequeue(data.draw(st.sampled_from(sorted(self.placement.waiting, key=str))))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def a_call_ends(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        worker = self.running.pop(key)
        self.placement.finish(key, self.now)
        for other, at in list(self.prefetched.items()):
            if at == worker:  # its turn has come
                self.running[other] = self.prefetched.pop(other)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def a_call_needs_its_cores_no_more(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.placement.release_cores(key)
        self.requests[key] = replace(self.requests[key], cores=0)

    @precondition(lambda self: self.prefetched)
    @rule(data=st.data())
    def a_call_that_was_prefetched_is_cancelled(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.prefetched)))
        del self.prefetched[key]
        self.placement.finish(key, self.now)

    @rule(seconds=st.sampled_from([0.5, 5]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def never_more_than_there_is(self) -> None:
        self.place()
        for name, resources in self.workers.items():
            here = [self.requests[key] for key, worker in self.running.items() if worker == name]
            assert sum(request.memory for request in here) <= resources.memory
            assert sum(request.cores for request in here) <= resources.cores

    @invariant()
    def nothing_waits_that_fits_but_for_one_worker_at_most(self) -> None:
        holding_back = set()
        for call in self.placement.waiting.values():
            for name, resources in self.workers.items():
                if name in self.closed or name in self.prefetched.values():
                    continue
                here = [self.requests[k] for k, worker in self.running.items() if worker == name]
                if (
                    sum(request.memory for request in here) + call.request.memory
                    <= resources.memory
                    and sum(request.cores for request in here) + call.request.cores
                    <= resources.cores
                    and call.request.seconds <= resources.ends_at - resources.margin - self.now
                ):
                    holding_back.add(name)
        assert len(holding_back) <= 1  # the one that is being cleared for a large call


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(
    memories=st.lists(st.integers(1, 50), min_size=4, max_size=60),
    picks=st.lists(st.integers(0, 1000), min_size=200, max_size=200),
    cores=st.integers(2, 8),
)
@settings(max_examples=60, deadline=None)
def test_a_large_call_starts_however_many_small_ones_keep_coming(
    memories: list[int], picks: list[int], cores: int
) -> None:
    placement = Placement()
    for name in ("a", "b"):
        placement.add(name, WorkerResources(memory=100, cores=cores))
    for number, memory in enumerate(memories):
        placement.enqueue(WaitingCall(f"small-{number}", Request(memory), order=0))
    running = [key for key, _ in started(placement)]
    placement.enqueue(WaitingCall("large", Request(100), order=1))
    at_most = len(running) + len(placement.waiting)  # those before it, and what ran
    for number, pick in enumerate(picks):
        placement.enqueue(WaitingCall(f"later-{number}", Request(memories[0]), order=2))
        running += [key for key, _ in started(placement)]
        if "large" in running:
            break  # before it may be picked as the one that ends
        placement.finish(running.pop(pick % len(running)))
        running += [key for key, _ in started(placement)]
        # It is the random choice of who ends that may spare those on its worker for long.
        if number > at_most:
            old = [key for key in running if not str(key).startswith("later")]
            for key in old if "large" not in running else []:
                running.remove(key)
                placement.finish(key)
            running += [key for key, _ in started(placement)]
    assert "large" in running or len(picks) <= at_most


def test_a_large_call_waits_for_those_only_that_ran_when_it_came() -> None:
    placement = Placement()
    placement.add("w", WorkerResources(memory=10, cores=10))
    for number in range(5):
        placement.enqueue(WaitingCall(f"before-{number}", Request(2), order=number))
    assert len(started(placement)) == 5
    placement.enqueue(WaitingCall("large", Request(10), order=10))
    for number in range(100):
        placement.enqueue(WaitingCall(f"after-{number}", Request(1), order=20))
    ends = 0
    while placement.worker_of("large") is None:
        placement.finish(f"before-{ends}")
        ends += 1
        started(placement)
    assert ends == 5


def test_small_calls_pass_a_large_one_that_fits_nowhere() -> None:
    placement = Placement()
    for name in ("a", "b"):
        placement.add(name, WorkerResources(memory=10, cores=10))
    for name in ("first", "second"):
        placement.enqueue(WaitingCall(name, Request(6), order=0))
    started(placement)
    placement.enqueue(WaitingCall("large", Request(8), order=1))
    for number in range(3):
        placement.enqueue(WaitingCall(number, Request(2), order=2))
    # One of the two is being cleared: beside the large one, 2 fit there at any time.
    assert len(started(placement)) == 3


def test_a_call_that_no_worker_could_take_holds_up_nobody() -> None:
    placement = Placement()
    placement.add("w", WorkerResources(memory=10, cores=2))
    placement.enqueue(WaitingCall("giant", Request(1000), order=0))
    placement.enqueue(WaitingCall("small", Request(10), order=1))
    assert started(placement) == [("small", "w")]


def test_equal_calls_start_in_order() -> None:
    placement = Placement()
    placement.add("w", WorkerResources(cores=3))
    for order in (5, 3, 4, 1, 2):
        placement.enqueue(WaitingCall(f"call-{order}", Request(), order))
    assert [key for key, _ in started(placement)] == ["call-1", "call-2", "call-3"]


def test_equal_workers_take_turns() -> None:
    placement = Placement()
    for worker in ("first", "second", "third"):
        placement.add(worker, WorkerResources(memory=10))
    given_to = []
    for number in range(6):
        placement.enqueue(WaitingCall(number, Request(1), number))
        [(key, worker)] = started(placement)
        placement.finish(key)
        given_to.append(worker)
    assert given_to == ["first", "second", "third"] * 2


def test_calls_go_where_they_are_allowed_to() -> None:
    placement = Placement(allowed=lambda where: None if where is None else {where})
    for name in ("a", "b"):
        placement.add(name, WorkerResources(cores=1))
    for number in range(3):
        placement.enqueue(WaitingCall(f"pinned-{number}", Request(), number, where="a"))
    placement.enqueue(WaitingCall("free", Request(), order=9))
    assert sorted(started(placement)) == [("free", "b"), ("pinned-0", "a")]


def test_a_call_starts_only_where_its_time_is_left() -> None:
    placement = Placement()
    placement.add("ends", WorkerResources(cores=5, ends_at=100, margin=10))
    placement.enqueue(WaitingCall("fits", Request(seconds=50), order=0))
    placement.enqueue(WaitingCall("too long", Request(seconds=51), order=1))
    assert started(placement, now=40) == [("fits", "ends")]
    placement.add("stays", WorkerResources(cores=1))
    assert started(placement, now=40) == [("too long", "stays")]


def test_a_quick_call_is_prefetched_and_asked_back_if_another_worker_is_free() -> None:
    placement = Placement(is_quick=lambda key: True)
    worker = placement.add("a", WorkerResources(cores=1))
    for number in range(3):
        placement.enqueue(WaitingCall(number, Request(), number))
    assert [(s.key, s.prefetched) for s in placement.place(0)] == [(0, False), (1, True)]
    assert placement.recall(now=1) == []
    placement.add("b", WorkerResources(cores=1))
    assert [s.key for s in placement.place(1)] == [2]
    placement.finish(2)
    assert [start.key for start in placement.recall(now=2)] == [1]
    placement.finish(0, now=2)
    assert worker.started[1] == 2  # its turn has come there


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (Request(100), Refusal("memory", 100, 50)),
        (Request(50, cores=4), None),
        (Request(10, cores=5), Refusal("cores", 5, 4)),
        (Request(50, seconds=91), Refusal("wall_time", 91, 80)),
        (Request(50, seconds=80), None),
        (Request(10, seconds=91), None),
    ],
)
def test_what_no_worker_could_ever_grant_is_refused(asked: Request, why: Refusal | None) -> None:
    workers = [
        WorkerResources(memory=50, cores=4, length=100, margin=10),
        WorkerResources(memory=10, cores=1),
    ]
    assert refusal(asked, workers) == why


def test_a_call_without_an_end_waits_where_all_jobs_are_about_to_end() -> None:
    workers = [WorkerResources(length=3, margin=2)]
    assert refusal(Request(memory=1), workers) is None
    assert refusal(Request(seconds=1), workers) == Refusal("wall_time", 1, 0)


@given(st.lists(st.tuples(requests, st.integers(0, 5)), max_size=300), st.randoms())
@settings(max_examples=50, deadline=None)
def test_a_queue_finds_what_a_plain_search_would(calls, random) -> None:
    queue, plain = Queue(), []
    for key, (request, order) in enumerate(calls):
        call = WaitingCall(key, request, order)
        queue.add(call)
        plain.append(call)
    for call in random.sample(plain, len(plain) // 2):
        queue.remove(call)
        plain.remove(call)
    plain.sort(key=lambda call: call.place)
    anything = [FreeResources(math.inf, 100)]
    assert [queue.first(anything, after) for after in [None, *plain]] == [*plain, None]
    free = [FreeResources(6, 1, 10), FreeResources(3, 3, 1)]
    fitting = [call for call in plain if call.fits(free)]
    assert queue.first(free) is (fitting[0] if fitting else None)
    if fitting:
        assert queue.first(free, after=fitting[0]) is (fitting[1] if fitting[1:] else None)


def test_of_ten_thousand_different_limits_few_are_looked_at_when_a_call_ends() -> None:
    looks = 0

    class Counted(WaitingCall):
        def fits(self, free: Iterable[FreeResources]) -> bool:
            nonlocal looks
            looks += 1
            return WaitingCall.fits(self, free)

    placement = Placement()
    for number in range(4):
        placement.add(f"w{number}", WorkerResources(memory=50_000, cores=4))
    for number in range(10_000):
        placement.enqueue(Counted(number, Request(7919 * number % 20_000), order=number))
    running = [key for key, _ in started(placement)]
    looks = 0
    for _ in range(1000):
        placement.finish(running.pop(0))
        running += [key for key, _ in started(placement)]
    assert looks < 100 * 1000


@pytest.mark.parametrize("are_idle", [True, False])
def test_of_a_thousand_workers_few_are_looked_at_for_a_call(
    are_idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[str] = []
    free = Worker.free

    def noted(worker: Worker, now: float) -> FreeResources:
        looked_at.append(worker.name)
        return free(worker, now)

    def cost(key: object, worker: str) -> int:
        looked_at.append(worker)
        return 0

    placement = Placement(cost=cost, is_quick=lambda key: True)
    for number in range(1000):
        placement.add(f"{number}", WorkerResources(memory=100, cores=1))
    monkeypatch.setattr(Worker, "free", noted)
    calls = 1 if are_idle else 3000
    for number in range(calls):
        placement.enqueue(WaitingCall(number, Request(10), order=number))
    if are_idle:
        assert len(started(placement)) == 1
    else:
        list(placement.place(0))
        looked_at.clear()
        placement.finish(0)
        assert len(list(placement.place(1))) == 1  # the next one to wait at that worker
        assert not placement.recall(5)
    assert len(looked_at) < 50


def test_of_many_equal_workers_one_that_has_what_the_call_needs_is_found() -> None:
    placement = Placement(
        cost=lambda key, worker: worker != "900", near=lambda key: ["gone", "900"]
    )
    for number in range(1000):
        placement.add(f"{number}", WorkerResources(memory=100, cores=2))
    placement.enqueue(WaitingCall("call", Request(10), order=0))
    assert started(placement) == [("call", "900")]


def test_calls_that_are_not_ready_wait_and_hold_up_no_others():
    ready = {"small"}
    placement = Placement(is_ready=ready.__contains__)
    placement.add("w", WorkerResources(10, 4))
    placement.enqueue(WaitingCall("large", Request(10), 0, where="large"))
    placement.enqueue(WaitingCall("small", Request(1), 1, where="small"))
    assert started(placement) == [("small", "w")]
    placement.finish("small")
    ready.add("large")
    assert started(placement) == [("large", "w")]


def test_a_worker_stays_reserved_for_a_call_that_is_not_ready_for_a_time():
    ready = {"large", "small"}
    placement = Placement(is_ready=ready.__contains__)
    placement.add("w", WorkerResources(10, 4))
    placement.resume(WaitingCall("first", Request(2), 0), "w")
    placement.enqueue(WaitingCall("large", Request(9), 0, where="large"))
    placement.enqueue(WaitingCall("beside", Request(1), 1, where="small"))
    placement.enqueue(WaitingCall("small", Request(2), 2, where="small"))
    assert started(placement) == [("beside", "w")]
    ready.discard("large")
    placement.finish("first")
    assert started(placement) == []
    ready.add("large")
    assert started(placement) == [("large", "w")]
    placement.finish("large")
    assert started(placement) == [("small", "w")]
