"""Programs as the guide of an event-driven scheduler shows them, with the counts it prints."""

from __future__ import annotations

import time

import pytest

from dask_limits import ExitState, Limiter, PynisherPlugin, Requeue, Scheduler, Task
from dask_limits.exceptions import SchedulerNotRunningError


@pytest.fixture(params=["processes", "threads"])
def make(request):
    return getattr(Scheduler, f"with_{request.param}")


def counts(scheduler: Scheduler, **expected: int) -> bool:
    """Whether these events, without their "on_", and no others were emitted."""
    return scheduler.event_counts == {f"on_{name}": n for name, n in expected.items()}


ONE_RUN = {"start": 1, "empty": 1, "finishing": 1, "finished": 1}


def next_of_collatz(n: int) -> int:
    return n // 2 if n % 2 == 0 else 3 * n + 1


def square(x: int) -> int:
    return x * x


def echo(text: str) -> str:
    return text


def nap(seconds: float) -> int:
    time.sleep(seconds)
    return 42


def fail(text: str) -> None:
    raise ValueError(text)


def test_a_task_that_feeds_on_its_own_results(make):
    scheduler = make(1)
    task = scheduler.task(next_of_collatz)
    path = []

    @scheduler.on_start
    def begin() -> None:
        path.append(12)
        task.submit(12)

    @task.on_result
    def go_on(_, n: int) -> None:
        path.append(n)
        if scheduler.running() and n != 1:
            task.submit(n)

    scheduler.run(timeout=30)
    assert path == [12, 6, 3, 10, 5, 16, 8, 4, 2, 1]
    assert counts(scheduler, **ONE_RUN, future_submitted=9, future_done=9, future_result=9)


def test_a_run_without_calls_starts_is_empty_and_finishes(make):
    scheduler, said = make(1), []

    @scheduler.on_start
    def first() -> None:
        said.append("first")

    def second() -> None:
        said.append("second")

    scheduler.on_start(second)
    scheduler.run()
    assert said == ["first", "second"]
    assert counts(scheduler, **ONE_RUN)


def test_results_lead_to_more_calls_of_the_scheduler_itself(make):
    scheduler, results = make(2), []

    @scheduler.on_start
    def begin() -> None:
        scheduler.submit(pow, 2, 2)

    @scheduler.on_future_result
    def collect(_, result: int) -> None:
        results.append(result)
        if result < 10:
            scheduler.submit(pow, 2, result)

    scheduler.run()
    assert results == [4, 16]
    assert counts(scheduler, **ONE_RUN, future_submitted=2, future_done=2, future_result=2)


def answered(scheduler: Scheduler, event: str) -> list[int]:
    """The numbers that are shown behind the callbacks of an event."""
    [found] = [s for s in scheduler.emitter.subscribers if s.event == event]
    return [n for _, n in found.callbacks]


def test_repeat_calls_again_and_is_shown_once(make):
    scheduler, said = make(1), []
    scheduler.on_start(repeat=3)(lambda: said.append("hello"))
    scheduler.run()
    assert said == ["hello"] * 3
    assert answered(scheduler, "on_start") == [1]


def test_max_calls_ends_a_chain(make):
    scheduler = make(2)

    @scheduler.on_start
    def begin() -> None:
        scheduler.submit(square, 2)

    @scheduler.on_future_result(max_calls=3)
    def again(future, result) -> None:
        scheduler.submit(square, 2)

    scheduler.run()
    assert counts(scheduler, **ONE_RUN, future_submitted=4, future_done=4, future_result=4)
    assert answered(scheduler, "on_future_result") == [3]


def test_when_chooses_one_of_two_callbacks(make):
    scheduler, said, language = make(1), [], "English"

    @scheduler.on_start(when=lambda: language == "English")
    def english() -> None:
        said.append("hello")

    @scheduler.on_start(when=lambda: language == "German")
    def german() -> None:
        said.append("guten Tag")

    scheduler.run()
    assert said == ["hello"]
    assert answered(scheduler, "on_start") == [1, 0]


def test_every_second_of_five_runs_is_two(make):
    scheduler, runs = make(1), []
    scheduler.on_start(every=2)(lambda: runs.append(scheduler.event_counts["on_start"]))
    for _ in range(5):
        scheduler.run()
    assert runs == [2, 4]
    assert counts(scheduler, start=5, empty=5, finishing=5, finished=5)
    assert answered(scheduler, "on_start") == [2]


def test_a_stop_that_does_not_wait_cancels_the_call():
    scheduler = Scheduler.with_processes(1)

    @scheduler.on_start
    def begin() -> None:
        scheduler.submit(nap, seconds=600)

    @scheduler.on_future_submitted
    def stop(_) -> None:
        scheduler.stop()

    assert scheduler.run(wait=False).code == ExitState.STOPPED
    assert counts(
        scheduler,
        start=1,
        stop=1,
        finishing=1,
        finished=1,
        future_submitted=1,
        future_cancelled=1,
    )


def test_a_timeout_ends_an_endless_chain_and_its_last_call_is_waited_for(make):
    scheduler = make(1)

    @scheduler.on_start
    def begin() -> None:
        scheduler.submit(nap, 0.1)

    @scheduler.on_future_done
    def again(future) -> None:
        if scheduler.running():
            scheduler.submit(nap, 0.1)

    assert scheduler.run(timeout=0.45).code == ExitState.TIMEOUT
    n = scheduler.event_counts["on_future_submitted"]
    assert 1 <= n <= 6  # the last by a callback that was told late
    assert counts(
        scheduler,
        start=1,
        timeout=1,
        finishing=1,
        finished=1,
        future_submitted=n,
        future_done=n,
        future_result=n,
    )


def test_a_stop_in_the_callback_of_the_last_exception(make):
    scheduler, said = make(1), []

    @scheduler.on_start
    def begin() -> None:
        scheduler.submit(fail, "no luck")

    @scheduler.on_future_exception
    def stop(future, exception) -> None:
        said.append(str(exception))
        scheduler.stop()

    scheduler.run(on_exception="continue")
    assert said == ["no luck"]
    assert counts(
        scheduler, **ONE_RUN, stop=1, future_submitted=1, future_done=1, future_exception=1
    )


def test_a_submit_before_the_run_is_refused_and_one_at_its_start_is_not(make):
    scheduler = make(1)
    task = scheduler.task(next_of_collatz)
    with pytest.raises(SchedulerNotRunningError):
        task.submit(5)
    scheduler.on_start(lambda: task.submit(5) and None)
    scheduler.run()
    assert counts(scheduler, **ONE_RUN, future_submitted=1, future_done=1, future_result=1)


def test_the_scheduler_sees_all_calls_and_a_task_its_own(make):
    scheduler, said = make(1), []
    task = scheduler.task(echo)

    @scheduler.on_start
    def begin() -> None:
        task.submit("of the task")
        scheduler.submit(echo, "of nobody")

    @scheduler.on_future_result
    def any_result(_, text: str) -> None:
        said.append(f"scheduler: {text}")

    @task.on_result
    def task_result(_, text: str) -> None:
        said.append(f"task: {text}")

    scheduler.run()
    assert sorted(said) == [
        "scheduler: of nobody",
        "scheduler: of the task",
        "task: of the task",
    ]
    assert counts(scheduler, **ONE_RUN, future_submitted=2, future_done=2, future_result=2)


def test_two_tasks_in_a_chain_share_a_callback(make):
    scheduler, results, errors = make(1), [], []
    first, second = scheduler.task(square), scheduler.task(next_of_collatz)
    items = iter([1, 2, 3])

    @scheduler.on_start
    def begin() -> None:
        first.submit(next(items))

    @first.on_result
    def hand_on(_, result: int) -> None:
        second.submit(result)

    @first.on_result
    def next_item(_, result: int) -> None:
        item = next(items, None)
        if item is not None:
            first.submit(item)

    @first.on_exception
    @second.on_exception
    def note(_, exception: BaseException) -> None:
        errors.append(exception)

    second.on_result(lambda _, result: results.append(result))
    scheduler.run()
    assert (results, errors) == ([4, 2, 28], [])
    assert counts(scheduler, **ONE_RUN, future_submitted=6, future_done=6, future_result=6)


def limited(make, items) -> tuple[Scheduler, Task, list[int]]:
    """Four submits at once of which two are dropped, and one more for each result."""
    scheduler = make(2)
    task = scheduler.task(echo, plugins=Limiter(max_concurrent=2))
    results: list[int] = []

    @scheduler.on_start(repeat=4)
    def submit() -> None:
        task.submit(next(items))

    @task.on_result
    def record(_, result: int) -> None:
        results.append(result)

    @task.on_result
    def another(_, result: int) -> None:
        item = next(items, None)
        if item is not None:
            task.submit(item)

    return scheduler, task, results


def test_a_limiter_drops_what_is_too_much(make):
    scheduler, _, results = limited(make, iter(range(10)))
    scheduler.run()
    assert sorted(results) == [0, 1, 4, 5, 6, 7, 8, 9]
    assert counts(scheduler, **ONE_RUN, future_submitted=8, future_done=8, future_result=8)
    assert answered(scheduler, "on_start") == [1]


def test_what_a_limiter_drops_can_be_put_back(make):
    items = Requeue(range(10))
    scheduler, task, results = limited(make, items)

    @task.on("concurrent-limit-reached")
    def put_back(task: Task, x: int) -> None:
        items.requeue(x)

    scheduler.run()
    assert sorted(results) == list(range(10))
    assert counts(scheduler, **ONE_RUN, future_submitted=10, future_done=10, future_result=10)


def test_the_pynisher_plugin_by_event_name_and_by_event():
    scheduler, seen = Scheduler.with_processes(), []
    plugin = PynisherPlugin(walltime_limit=(0.2, "s"))
    task = scheduler.task(nap, plugins=[plugin])

    @task.on("pynisher-timeout")
    def timed_out(exception):
        seen.append(type(exception))

    @task.on(plugin.WALL_TIME_LIMIT_REACHED)
    def over_wall_time(exception):
        assert isinstance(exception, PynisherPlugin.WallTimeoutException)
        seen.append(type(exception))

    scheduler.on_start(lambda: task.submit(60) and None)
    scheduler.run(on_exception={PynisherPlugin.TimeoutException: "continue"})
    assert len(seen) == 2
