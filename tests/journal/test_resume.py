"""A run with a journal: what has ended comes back, and only what is missing runs."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from processes import until

from dask_limits import Journal, Limiter, PynisherPlugin, Retry, Scheduler, exceptions
from dask_limits.exceptions import JournalError
from dask_limits.executors import Future


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.sqlite"


def note(folder: Path, n: int) -> int:
    """A call that leaves a line for each time it has run."""
    with (folder / f"{n}").open("a") as lines:
        lines.write("ran\n")
    return n * n


def times_run(folder: Path) -> list[int]:
    return sorted(len(file.read_text().split()) for file in folder.iterdir())


def run(
    journal: Any,
    fn: Callable[..., Any],
    *calls: Any,
    make: Callable[[], Scheduler] = lambda: Scheduler.with_threads(2),
    key: Any = None,
    plugins: Any = (),
    **options: Any,
) -> SimpleNamespace:
    """Run a call for each of these arguments, and return what was told."""
    scheduler = make()
    task = scheduler.task(fn, key=key, plugins=plugins)
    told: list[Future[Any]] = []
    scheduler.on_start(lambda: [task.submit(*args) for args in calls] and None)
    scheduler.on_future_done(told.append)
    state = scheduler.run(journal=journal, **{"on_exception": "continue", **options})
    return SimpleNamespace(
        told=told,
        past=[future.from_journal for future in told],
        results=[repr(future.exception() or future.result()) for future in told],
        scheduler=scheduler,
        state=state,
    )


@pytest.mark.parametrize(
    "make",
    [
        Scheduler.with_sequential,
        lambda: Scheduler.with_threads(2),
        lambda: Scheduler.with_processes(2),
        lambda: Scheduler(ThreadPoolExecutor(2)),
        pytest.param(
            lambda: Scheduler.with_dask(n_workers=1, memory_limit=None), marks=pytest.mark.dask
        ),
    ],
    ids=["sequential", "threads", "processes", "pool", "dask"],
)
def test_what_has_ended_comes_back_and_what_is_missing_runs(make, file, tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    first = run(file, note, *[(folder, n) for n in range(4)], make=make)
    again = run(file, note, *[(folder, n) for n in range(6)], make=make)
    assert times_run(folder) == [1] * 6
    assert first.past == [False] * 4
    assert again.past == [True] * 4 + [False] * 2
    assert again.results[:4] == first.results
    assert sorted(map(int, again.results)) == [n * n for n in range(6)]


def limited(kind: str) -> int:
    if kind == "raise":
        raise LookupError("no", "such thing")
    if kind == "exit":
        os._exit(3)
    if kind == "crash":
        os.abort()
    if kind == "sleep":
        time.sleep(60)
    return len(bytearray(20_000_000))


def test_usage_exceptions_and_places_come_back(file):
    limits = lambda: PynisherPlugin(walltime_limit=1, memory_limit="1 GiB")  # noqa: E731
    kinds = [("return",), ("raise",), ("exit",), ("crash",), ("sleep",)]
    make = lambda: Scheduler.with_processes(2)  # noqa: E731
    first = run(file, limited, *kinds, make=make, plugins=limits())
    again = run(file, limited, *kinds, make=make, plugins=limits())
    assert again.past == [True] * 5
    assert again.results == first.results
    for before, now in zip(first.told, again.told, strict=True):
        assert now.usage == before.usage
        assert (now.key, now.attempts) == (before.key, before.attempts)
        assert now.submitted_at == before.submitted_at
        error, then = now.exception(), before.exception()
        assert type(error) is type(then)
        if isinstance(error, exceptions.CallError):
            assert (error.limits, error.usage) == (then.limits, then.usage)
        if isinstance(error, LookupError):
            assert "limited" in str(error.__cause__)
    rows = [list(run.scheduler.report()) for run in (first, again)]
    assert rows[0] == rows[1] == list(Journal(file).report())


def test_events_come_as_for_calls_that_run(file):
    def events() -> list[str]:
        scheduler = Scheduler.with_threads(1)
        task = scheduler.task(pow)
        seen: list[str] = []
        for event in (*scheduler.emitter.events, *task.emitter.events):
            emitter = scheduler if event in scheduler.emitter.events else task
            emitter.on(event)(lambda *_, name=event: seen.append(name))
        scheduler.on_start(lambda: task.submit(2, 3) and None)
        scheduler.run(journal=file)
        return seen

    assert events() == events()


def test_callbacks_that_submit_the_next_trial_see_the_same_ends_in_the_same_order(file):
    """Four calls at a time of very different lengths, each of which submits another."""

    def search(stop_after: int) -> list[tuple[int, int]]:
        scheduler = Scheduler.with_threads(4)
        trial = scheduler.task(slow_square)
        seen: list[tuple[int, int]] = []

        @scheduler.on_start
        def begin():
            for n in range(4):
                trial.submit(n)

        @trial.on_result
        def next_one(future, result):
            seen.append((result, future.from_journal))
            if len(seen) == stop_after:
                scheduler.stop()
            elif scheduler.running() and trial.n_submitted < 30:
                trial.submit(sum(r for r, _ in seen) % 1000 + trial.n_submitted)

        scheduler.run(journal=file, wait=False)
        return seen

    first = search(12)
    again = search(99)
    assert len(first) >= 12
    assert again[: len(first)] == [(result, True) for result, _ in first]
    assert len(again) == 30
    assert search(99) == [(result, True) for result, _ in again]


def slow_square(n: int) -> int:
    time.sleep(n % 7 / 200)
    return n * n


def test_calls_that_end_now_are_told_after_those_of_the_journal(file):
    run(file, slow_square, *[(n,) for n in range(50)])
    again = run(file, slow_square, (1000,), *[(n,) for n in range(50)])
    assert again.past == [True] * 50 + [False]


def test_map_takes_up_where_it_was(file, tmp_path):
    def results(n_items: int) -> list[bool]:
        scheduler = Scheduler.with_threads(2)
        past: list[bool] = []
        scheduler.on_start(lambda: scheduler.map(abs, range(-n_items, 0)))
        scheduler.on_future_done(lambda future: past.append(future.from_journal))
        scheduler.run(journal=file)
        return past

    assert results(300) == [False] * 300
    assert sorted(results(500)) == [False] * 200 + [True] * 300


def test_the_second_call_with_the_same_arguments_is_another_one(file):
    numbers = iter(range(100))
    draw = lambda: next(numbers)  # noqa: E731
    first = run(file, draw, (), (), make=Scheduler.with_sequential)
    again = run(file, draw, (), (), (), make=Scheduler.with_sequential)
    assert first.results == ["0", "1"]
    assert again.results == ["0", "1", "2"]


def test_a_key_stands_for_all_arguments(file):
    by_name = lambda config: config["name"]  # noqa: E731
    fit = lambda config: config["value"]  # noqa: E731
    run(file, fit, ({"name": "a", "value": 1},), key=by_name)
    again = run(
        file, fit, ({"name": "a", "value": object()},), ({"name": "b", "value": 2},), key=by_name
    )
    assert again.results == ["1", "2"]


def test_calls_with_one_key_in_one_run_are_one_call(file):
    numbers = iter(range(100))
    scheduler = Scheduler.with_sequential()
    draw = scheduler.task(lambda: next(numbers), key=lambda: "one")
    seen: list[Any] = []
    scheduler.on_start(draw.submit)

    @draw.on_result
    def again(future, result):
        seen.append((result, future.from_journal))
        if len(seen) < 3:
            draw.submit()

    scheduler.run(journal=file)
    assert seen == [(0, False), (0, True), (0, True)]


def test_a_second_call_with_a_key_that_runs_already_is_refused(file):
    with pytest.raises(JournalError, match="with the key 'one' runs already"):
        run(file, slow_square, (1,), (2,), key=lambda n: "one")


@pytest.mark.parametrize(
    ("rerun", "past"), [("none", [True, True]), ("failed", [True, False]), ("all", [False, False])]
)
def test_what_failed_runs_again_if_that_is_asked_for(rerun, past, file):
    calls = [(2,), ("no number",)]
    run(file, abs, *calls, make=Scheduler.with_sequential)
    again = run(Journal(file, rerun=rerun), abs, *calls, make=Scheduler.with_sequential)
    assert again.past == past
    assert len(Journal(file).report()) == 2
    assert run(file, abs, *calls).past == [True, True]


def test_what_was_cancelled_or_lost_runs_again(file):
    gate = threading.Event()
    wait = lambda n: gate.wait(60)  # noqa: E731
    scheduler = Scheduler.with_threads(1)
    task = scheduler.task(wait)
    scheduler.on_start(lambda: [task.submit(n) for n in range(3)] and None)
    scheduler.on_future_submitted(lambda future: future.cancel())
    scheduler.on_finishing(gate.set)
    scheduler.run(journal=file, on_cancelled="continue")

    def lose(n: int) -> int:
        raise exceptions.WorkerLostError("its worker was lost")

    assert run(file, lose, (1,)).past == [False]
    assert run(file, lose, (1,)).past == [False]
    assert run(file, wait, (0,), (1,), (2,)).past == [False] * 3


class Odd:
    """Its pickling and unpickling end the program, if nothing stops them."""

    def __init__(self, when: str) -> None:
        self.when = when

    def __reduce__(self):
        if self.when == "dump":
            raise SystemExit
        return sys.exit, (3,)


@pytest.mark.parametrize("make", [threading.Lock, partial(Odd, "dump")], ids=["lock", "exit"])
def test_a_result_that_cannot_be_pickled_runs_again_and_the_log_says_so(make, file, caplog):
    for _ in range(2):
        assert run(file, make, ()).past == [False]
    assert "returned cannot be pickled" in caplog.text


class Two(Exception):
    """The classic one: it is pickled with one argument, and needs two."""

    def __init__(self, a: str, b: str) -> None:
        super().__init__(f"{a} {b}")


class Bounds(Exception):
    def __init__(self, limits: tuple[int, int]) -> None:
        super().__init__(limits)
        self.limits = limits


def fail_with(kind: str) -> None:
    raise Two("a", "b") if kind == "two" else Bounds((1, 2))


@pytest.mark.parametrize("make", [Scheduler.with_threads, Scheduler.with_processes])
def test_an_exception_of_any_kind_comes_back(make, file):
    """One that cannot be pickled as one that says what it was."""
    run(file, fail_with, ("two",), ("bounds",), make=partial(make, 2))
    again = run(file, fail_with, ("two",), ("bounds",), make=partial(make, 2))
    assert again.past == [True, True]
    errors = {type(future.exception()).__name__: str(future.exception()) for future in again.told}
    assert errors.keys() == {"Bounds", "CallPicklingError"}
    assert "raised Two: a b" in errors["CallPicklingError"]


def test_what_ends_the_program_when_it_is_loaded_is_an_error(file):
    run(file, partial(Odd, "load"), ())
    with pytest.raises(JournalError, match=r"cannot be loaded .*: SystemExit"):
        run(file, partial(Odd, "load"), ())


def test_texts_and_numbers_of_all_kinds_can_be_written(file):
    def fail(n: int) -> None:
        raise ValueError("\udc80 \0 \n \N{SNOWMAN}", n)

    assert run(file, fail, (10**30,)).past == [False]
    again = run(file, fail, (10**30,))
    assert again.past == [True]
    assert again.told[0].exception().args == ("\udc80 \0 \n \N{SNOWMAN}", 10**30)


def test_another_name_and_another_folder_are_the_same_file(file, tmp_path, monkeypatch):
    run(file, abs, (1,))
    link = tmp_path / "link.sqlite"
    link.symlink_to(file)
    assert run(link, abs, (1,)).past == [True]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("~/run.sqlite", abs, (1,)).past == [True]
    monkeypatch.chdir(tmp_path)
    scheduler = Scheduler.with_threads(1)
    (tmp_path / "elsewhere").mkdir()
    scheduler.on_start(
        lambda: monkeypatch.chdir("elsewhere") or (scheduler.submit(abs, 2) and None)
    )
    scheduler.run(journal="run.sqlite")
    assert [*(tmp_path / "elsewhere").iterdir()] == []
    assert not Path(f"{file}.lock").exists()


def test_a_call_whose_result_cannot_be_loaded_any_more_is_an_error(file, tmp_path, monkeypatch):
    module = tmp_path / "away.py"
    module.write_text("class Model:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import away  # type: ignore[import-not-found]

    make = away.Model
    run(file, lambda: make(), (), make=Scheduler.with_sequential)
    monkeypatch.delattr(away, "Model")
    with pytest.raises(JournalError, match=r"What <lambda>\(\) has returned .*cannot be loaded"):
        run(file, lambda: make(), (), make=Scheduler.with_sequential)


def test_a_changed_function_is_refused_with_both_versions(file):
    def make(factor: int) -> Callable[[int], int]:
        names: dict[str, Any] = {}
        exec(f"def fit(n):\n    return n * {factor}", names)
        return names["fit"]

    assert run(file, make(2), (1,)).results == ["2"]
    assert run(file, make(2), (1,)).past == [True]
    with pytest.raises(JournalError) as caught:  # also where other exceptions let the run go on
        run(file, make(3), (1,))
    assert len({word for word in str(caught.value).split() if len(word.strip(",.")) == 8}) >= 2
    assert 'changed="keep"' in str(caught.value)
    kept = run(Journal(file, changed="keep"), make(3), (1,), (2,))
    assert (kept.results, kept.past) == (["2", "6"], [True, False])
    rerun = run(Journal(file, changed="rerun"), make(3), (1,))
    assert (rerun.results, rerun.past) == (["3"], [False])
    assert run(file, make(3), (1,)).past == [True]


def test_a_function_compiled_by_another_python_is_not_compared(file, caplog):
    import sqlite3

    run(file, slow_square, (1,))
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE functions SET python = '2.7'")
    assert run(file, slow_square, (1,)).past == [True]
    assert "was compiled by Python 2.7 then" in caplog.text


def test_limits_plugins_and_retries_go_with_a_journal(file):
    """What comes back takes no place, is not retried, and its plugins are told."""
    plugins = lambda: [  # noqa: E731
        Limiter(max_concurrent=1, when_full="wait"),
        Retry(max_retries=1, on=ValueError),
    ]
    calls = [("1",), ("x",), ("2",), ("3",)]
    first = run(file, int, *calls, plugins=plugins())
    again = run(file, int, *calls, ("4",), plugins=plugins())
    assert again.past == [True] * 4 + [False]
    assert again.results[:4] == first.results
    assert [f.attempts for f in again.told] == [1, 2, 1, 1, 1]


def test_nothing_is_told_before_it_is_on_the_disk(file):
    """Each callback finds its call in the file, by another connection."""
    import sqlite3

    scheduler = Scheduler.with_threads(4)
    scheduler.on_start(lambda: scheduler.map(abs, range(200)))
    n_told = 0

    @scheduler.on_future_done
    def look(future):
        nonlocal n_told
        n_told += 1
        with sqlite3.connect(file) as connection:
            assert connection.execute("SELECT count(*) FROM calls").fetchone()[0] >= n_told

    scheduler.run(journal=file)
    assert n_told == 200


def test_ctrl_c_tells_nothing_that_is_not_in_the_journal(file):
    scheduler = Scheduler.with_threads(2)
    told: list[Any] = []
    scheduler.on_start(lambda: scheduler.map(slow_square, range(100)))

    @scheduler.on_future_result
    def interrupt(future, result):
        told.append(result)
        if len(told) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scheduler.run(journal=file)
    again = run(file, slow_square, *[(n,) for n in range(100)])
    assert again.results[: len(told)] == list(map(str, told))
    assert again.past[: len(told)] == [True] * len(told)


def test_it_can_be_read_while_it_is_written(file):
    scheduler = Scheduler.with_threads(1)
    lengths: list[int] = []
    scheduler.on_start(lambda: [scheduler.submit(abs, n) for n in range(5)] and None)
    scheduler.on_future_done(lambda _: lengths.append(len(Journal(file).report())))
    scheduler.run(journal=file)
    assert len(lengths) == 5
    assert lengths == sorted(lengths)
    assert lengths[-1] == 5


async def in_event_loop(file: Path) -> list[bool]:
    scheduler = Scheduler.with_threads(2)
    past: list[bool] = []
    scheduler.on_start(lambda: [scheduler.submit(abs, n) for n in range(5)] and None)
    scheduler.on_future_done(lambda future: past.append(future.from_journal))
    await scheduler.async_run(journal=file)
    return past


def test_async_run_has_a_journal_too(file):
    import asyncio

    assert asyncio.run(in_event_loop(file)) == [False] * 5
    assert asyncio.run(in_event_loop(file)) == [True] * 5


def test_the_thread_that_writes_ends_with_the_run(file):
    run(file, abs, (1,))
    until(lambda: "dask-limits-journal" not in {t.name for t in threading.enumerate()})
    assert not Path(f"{file}.lock").exists()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Journal("a", rerun="some"), ValueError, "rerun='some' must be one of 'none'"),
        (lambda: Journal("a", changed="yes"), ValueError, "changed='yes' must be one of 'refuse'"),
        (lambda: Journal(""), TypeError, "needs the path of a file"),
        (lambda: Scheduler.with_sequential().run(journal=3), TypeError, "must be the path"),
        (lambda: Scheduler.with_sequential().task(abs, key="a"), TypeError, "must be a function"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(make, error, words):
    with pytest.raises(error, match=words):
        make()
