from __future__ import annotations

import time

import pytest
from processes import wait_for

from dask_limits import (
    ExitState,
    Limiter,
    Limits,
    Plugin,
    PynisherPlugin,
    Requeue,
    Scheduler,
    exceptions,
)
from dask_limits.limits import limit

KB = 1024


@pytest.fixture
def scheduler():
    return Scheduler.with_threads(4)


def events_of(task):
    """Events of a plugin as they come, with their arguments."""
    seen = []
    for event in task.emitter.events:
        if not event.startswith("on-"):
            task.on(event)(lambda *args, name=event.name: seen.append((name, *args)))
    return seen


# -- Limiter ---------------------------------------------------------------------------------


def test_no_more_than_max_calls_are_submitted_in_all(scheduler):
    task = scheduler.task(abs, plugins=Limiter(max_calls=2))
    seen, submitted = events_of(task), []
    scheduler.on_start(lambda: submitted.extend(task.submit(n) for n in range(4)))
    scheduler.run()
    assert [future is None for future in submitted] == [False, False, True, True]
    assert seen == [("call-limit-reached", task, 2), ("call-limit-reached", task, 3)]
    assert scheduler.event_counts["on_future_submitted"] == 2


def test_max_calls_holds_also_for_a_submit_in_the_callback_of_a_submit(scheduler):
    task = scheduler.task(abs)
    task.on_submitted(lambda *_: task.submit(1) and None)
    task.attach_plugin(Limiter(max_calls=3))
    scheduler.on_start(lambda: task.submit(1) and None)
    scheduler.run()
    assert task.n_submitted == 3


def test_no_more_than_max_concurrent_run_and_more_are_dropped(scheduler, tmp_path):
    task = scheduler.task(wait_for, plugins=Limiter(max_concurrent=2))
    seen = events_of(task)

    @scheduler.on_start
    def begin():
        for n in range(4):
            task.submit(str(tmp_path / "gate"), n)
        (tmp_path / "gate").touch()

    again = task.on_result(lambda *_: task.submit(str(tmp_path / "gate")) and None, max_calls=1)
    assert callable(again)
    scheduler.run()
    assert [name for name, *_ in seen] == ["concurrent-limit-reached"] * 2
    assert task.n_submitted == 3


def test_a_task_is_refused_while_another_one_runs(scheduler, tmp_path):
    other = scheduler.task(wait_for)
    task = scheduler.task(abs, plugins=Limiter(not_while_running=other))
    seen, results = events_of(task), []
    task.on_result(lambda _, result: results.append(result))

    @scheduler.on_start
    def begin():
        other.submit(str(tmp_path / "gate"))
        assert task.submit(-1) is None
        (tmp_path / "gate").touch()

    other.on_done(lambda _: task.submit(-2) and None)
    scheduler.run()
    assert seen == [("disabled-due-to-running-task", task, -1)]
    assert results == [2]


def test_held_calls_start_first_come_first_served_and_never_too_many_at_once(scheduler):
    task = scheduler.task(lambda n: n, plugins=Limiter(max_concurrent=1, when_full="wait"))
    order, most = [], []
    task.on_result(lambda _, result: order.append(result))
    task.on_result(lambda *_: most.append(task.n_running))
    task.on_result(lambda *_: task.submit(20) and None, max_calls=1)

    @scheduler.on_start
    def begin():
        futures = [task.submit(n) for n in range(20)]
        assert None not in futures
        assert (task.n_running, task.n_held) == (1, 19)
        assert task.futures() == futures
        assert not futures[5].running()

    scheduler.run()
    assert order == list(range(21))
    assert max(most) <= 1
    assert scheduler.event_counts["on_empty"] == 1
    assert not events_of(task)


def test_held_calls_keep_the_run_from_being_empty(scheduler, tmp_path):
    other = scheduler.task(wait_for)
    task = scheduler.task(abs, plugins=Limiter(not_while_running=[other], when_full="wait"))
    held = []

    @scheduler.on_start
    def begin():
        other.submit(str(tmp_path / "gate"))
        held.append(task.submit(-1))
        assert task.n_held == 1
        assert not task.running()
        assert held[0] in scheduler.queue
        (tmp_path / "gate").touch()

    scheduler.run()
    assert held[0].result() == 1
    assert held[0].usage is not None
    assert scheduler.event_counts["on_empty"] == 1


def test_a_held_call_starts_when_the_other_task_was_cancelled():
    scheduler = Scheduler.with_processes(2)
    other = scheduler.task(time.sleep)
    task = scheduler.task(abs, plugins=Limiter(not_while_running=other, when_full="wait"))
    held = []

    @scheduler.on_start
    def begin():
        running = other.submit(60)
        held.append(task.submit(-1))
        running.cancel()

    scheduler.run(on_cancelled="continue")
    assert held[0].result() == 1


def test_a_held_call_can_be_cancelled_and_those_behind_it_move_up(scheduler):
    task = scheduler.task(abs, plugins=Limiter(max_concurrent=1, when_full="wait"))
    futures = []

    @scheduler.on_start
    def begin():
        futures.extend(task.submit(n) for n in range(4))
        assert futures[2].cancel()

    cancelled = []
    task.on_cancelled(cancelled.append)
    scheduler.run(on_cancelled="continue")
    assert cancelled == [futures[2]]
    assert [f.result() for n, f in enumerate(futures) if n != 2] == [0, 1, 3]
    assert task.n_running == task.n_held == 0


def test_a_cancelled_call_that_was_held_ends_although_it_runs_now():
    scheduler = Scheduler.with_processes(1)
    task = scheduler.task(time.sleep, plugins=Limiter(max_concurrent=1, when_full="wait"))
    futures = []

    @scheduler.on_start
    def begin():
        futures.extend(task.submit(seconds) for seconds in (0, 60))

    task.on_result(lambda *_: scheduler.call_later(0.05, lambda: futures[1].cancel() and None))
    began = time.monotonic()
    scheduler.run(on_cancelled="continue")
    assert futures[1].cancelled()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("wait", [True, False])
def test_calls_that_are_held_when_the_run_ends_are_cancelled(scheduler, tmp_path, wait):
    task = scheduler.task(wait_for, plugins=Limiter(max_concurrent=1, when_full="wait"))
    futures = []

    @scheduler.on_start
    def begin():
        futures.extend(task.submit(str(tmp_path / "gate")) for _ in range(3))
        scheduler.stop()

    scheduler.on_finishing((tmp_path / "gate").touch)
    assert scheduler.run(wait=wait).code == ExitState.STOPPED
    assert [f.cancelled() for f in futures] == [not wait, True, True]
    assert scheduler.event_counts["on_future_cancelled"] == sum(f.cancelled() for f in futures)


def test_a_limiter_counts_from_when_it_was_attached_and_its_copy_anew(scheduler):
    limiter = Limiter(max_calls=1)
    task, other = scheduler.task(abs, plugins=limiter), scheduler.task(abs)
    scheduler.on_start(lambda: [t.submit(1) for t in (task, other, other)] and None, max_calls=1)
    scheduler.run()
    other.attach_plugin(limiter.copy())
    got = []
    scheduler.on_start(lambda: got.extend(t.submit(1) for t in (task, other, other)))
    scheduler.run()
    assert [future is not None for future in got] == [False, True, False]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_calls": 0}, ValueError),
        ({"max_concurrent": 0}, ValueError),
        ({"max_calls": 1.5}, TypeError),
        ({"max_concurrent": True}, TypeError),
        ({"when_full": "hold"}, ValueError),
    ],
)
def test_a_limiter_refuses_what_makes_no_sense(options, error):
    with pytest.raises(error, match=next(iter(options))):
        Limiter(**options)
    with pytest.raises(TypeError, match="not_while_running"):
        Limiter(not_while_running=[abs])


# -- PynisherPlugin --------------------------------------------------------------------------


def burn():
    while True:
        pass


def hog():
    hoard = []
    while True:
        hoard.append(bytearray(16 * KB * KB))


def breed():
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], check=True)


@pytest.mark.parametrize("make", [Scheduler.with_threads, Scheduler.with_processes])
@pytest.mark.parametrize(
    ("fn", "args", "limits", "events", "kind"),
    [
        (
            time.sleep,
            (60,),
            {"walltime_limit": (0.2, "s")},
            ["pynisher-timeout", "pynisher-walltime-limit"],
            exceptions.WallTimeoutException,
        ),
        (
            burn,
            (),
            {"cpu_time_limit": "300 ms"},
            ["pynisher-timeout", "pynisher-cputime-limit"],
            exceptions.CpuTimeoutException,
        ),
        (
            hog,
            (),
            {"memory_limit": (200, "mb")},
            ["pynisher-memory-limit"],
            exceptions.MemoryLimitException,
        ),
        (
            breed,
            (),
            {"process_limit": 1},
            ["pynisher-process-limit"],
            exceptions.ProcessLimitException,
        ),
    ],
)
def test_each_breach_has_its_events_after_the_tasks_own(make, fn, args, limits, events, kind):
    scheduler = make(1)
    task = scheduler.task(fn, plugins=PynisherPlugin(**limits))
    seen = []
    for event in task.emitter.events:
        task.on(event)(lambda *args, name=event.name: seen.append((name, args[-1])))
    futures = []
    scheduler.on_start(lambda: futures.append(task.submit(*args)))
    assert scheduler.run(on_exception={kind: "continue"}).code == ExitState.EXHAUSTED
    assert [name for name, _ in seen[1:]] == ["on-done", "on-exception", *events]
    for _, exception in seen[2:]:
        assert isinstance(exception, kind)
    assert futures[0].usage.wall_time > 0


def test_the_limits_plugin_leaves_calls_within_their_limits_alone():
    scheduler = Scheduler.with_processes(1)
    task = scheduler.task(pow, plugins=PynisherPlugin(wall_time_limit=30, memory_limit="1 GiB"))
    seen, results = events_of(task), []
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: task.submit(2, 10) and None)
    scheduler.run()
    assert (results, seen) == ([1024], [])


def test_of_two_limits_the_stricter_holds(scheduler):
    plugin = PynisherPlugin(walltime_limit=5, memory_limit="1 GiB")
    fn = limit(abs, wall_time=10, memory="1 MiB", cpu_time=1)
    call, args, kwargs = plugin.pre_submit(fn, 3)
    assert call.limits == Limits(wall_time=5, memory="1 MiB", cpu_time=1)
    assert (call.fn, args, kwargs) == (abs, (3,), {})


def test_both_spellings_are_known_and_giving_both_is_an_error():
    old = PynisherPlugin(wall_time_limit=(5, "m"), cpu_time_limit=60)
    new = PynisherPlugin(walltime_limit=(5, "m"), cputime_limit=60)
    for plugin in (old, new, new.copy()):
        assert plugin.walltime_limit == plugin.wall_time_limit == (5, "m")
        assert plugin.cputime_limit == plugin.cpu_time_limit == 60
        assert plugin.limits == Limits(wall_time=300, cpu_time=60)
    with pytest.raises(TypeError, match="walltime_limit and wall_time_limit"):
        PynisherPlugin(walltime_limit=1, wall_time_limit=1)


@pytest.mark.parametrize("name", ["memory_limit", "cputime_limit", "walltime_limit"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), (1, "parsec"), "1 parsec", ""])
def test_a_limit_that_makes_no_sense_is_refused_by_its_name(name, value):
    with pytest.raises(ValueError, match=name):
        PynisherPlugin(**{name: value})


def test_context_is_kept_and_copied():
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    assert PynisherPlugin(memory_limit=1, context=context).copy().context is context


def test_supports_knows_four_kinds():
    for kind in ("wall_time", "cpu_time", "memory", "num_processes"):
        assert PynisherPlugin.supports(kind) is True
    with pytest.raises(ValueError, match="'wall_time', 'cpu_time', 'memory', 'num_processes'"):
        PynisherPlugin.supports("disk")


def test_the_exceptions_are_pynishers_own():
    import pynisher.exceptions

    for name in (
        "PynisherException",
        "TimeoutException",
        "MemoryLimitException",
        "CpuTimeoutException",
        "WallTimeoutException",
    ):
        assert getattr(PynisherPlugin, name) is getattr(pynisher.exceptions, name)


# -- all plugins -----------------------------------------------------------------------------


def test_a_plugin_written_as_the_guide_does_it_can_add_its_events_itself(scheduler):
    from dask_limits import Event

    class Loud(Plugin):
        SHOUT = Event("shout")

        def __init__(self):
            super().__init__()

        def attach_task(self, task):
            self.task = task
            task.emitter.add_event(self.SHOUT)
            task.on_exception(self._shout, hidden=True)

        def _shout(self, _, exception):
            self.task.emitter.emit(self.SHOUT, exception)

    task = scheduler.task(lambda: 1 // 0, plugins=[Loud()])
    seen = events_of(task)
    scheduler.on_start(lambda: task.submit() and None)
    scheduler.run(on_exception="continue")
    [(name, exception)] = seen
    assert name == "shout"
    assert isinstance(exception, ZeroDivisionError)


def test_plugins_render_themselves(scheduler):
    import io

    from rich.console import Console

    other = scheduler.task(abs)
    limiter = Limiter(max_calls=3, max_concurrent=2, not_while_running=other, when_full="wait")
    limits = PynisherPlugin(memory_limit=(2, "gb"), walltime_limit="5m", process_limit=3)
    text = io.StringIO()
    console = Console(file=text, width=80)
    console.print(limiter)
    scheduler.task(abs, plugins=[limiter, limits, Plugin()])
    console.print(scheduler)
    for part in ("Calls 0/3", "Concurrent 0/2", "Held 0", other.unique_ref, "2.0 GiB", "300 s"):
        assert part in text.getvalue()


def test_what_is_requeued_comes_next_and_what_is_appended_last():
    items = Requeue(n for n in range(3))
    assert next(items) == 0
    items.append(8, 9)
    items.requeue(5)
    items.requeue(6, 7)
    assert list(items) == [6, 7, 5, 1, 2, 8, 9]
    assert next(items, None) is None
    items.append(1)
    items.requeue(0)
    assert list(items) == [0, 1]


def test_a_held_call_that_was_cancelled_never_starts():
    scheduler = Scheduler.with_sequential()
    ran = []
    task = scheduler.task(ran.append, plugins=Limiter(max_concurrent=1, when_full="wait"))
    blocker = []

    @task.on_result
    def cancel_the_next(future, _):
        if future is blocker[0]:
            assert blocker[2].cancel()

    scheduler.on_start(lambda: blocker.extend(task.submit(n) for n in range(4)))
    scheduler.run(on_cancelled="continue")
    assert ran == [0, 1, 3]


def test_a_plugin_whose_place_cannot_be_told_fails_as_a_callback_does(scheduler):
    class Broken(Plugin):
        def __init__(self):
            self.asked = 0

        def has_place(self):
            self.asked += 1
            if self.asked > 2:
                raise RuntimeError("no telling")
            return self.asked < 2

    task = scheduler.task(time.sleep, plugins=Broken())
    scheduler.on_start(lambda: [task.submit(0.05) for _ in range(2)] and None)
    state = scheduler.run(on_exception="end")
    assert str(state.exception) == "no telling"
    counts = scheduler.event_counts
    assert counts["on_future_done"] + counts["on_future_cancelled"] == 2


def test_a_plugin_class_in_place_of_a_plugin_is_refused(scheduler):
    with pytest.raises(TypeError, match=r"Limiter is a class: pass an instance, Limiter\(...\)"):
        scheduler.task(abs, plugins=Limiter)
