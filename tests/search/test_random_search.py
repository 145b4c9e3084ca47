from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from leftovers import Leftovers

from dask_limits import PynisherPlugin, Scheduler
from dask_limits.executors.processes import ProcessExecutor
from dask_limits.search import pipelines
from dask_limits.search.data import Dataset
from dask_limits.search.pipelines import Configuration, draw
from dask_limits.search.random_search import RandomSearch, Trial, run_trial

ROWS = 60


def small(*, classification: bool = True) -> Dataset:
    """Data on which every family is done in no time."""
    features = pd.DataFrame(np.random.default_rng(0).normal(size=(ROWS, 3)), columns=list("abc"))
    target = features["a"] > 0 if classification else features["a"] * 2
    return Dataset("small", features, target, classification)


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Not after each test: the executor lives on."""
    leftovers = Leftovers()
    yield
    leftovers.expect_none()


@pytest.fixture(scope="module")
def executor(nothing_is_left_behind: None) -> Iterator[ProcessExecutor]:
    """One for all searches, so that its processes import scikit-learn once."""
    with ProcessExecutor(2) as executor:
        yield executor


@pytest.fixture
def scheduler(executor: ProcessExecutor, tmp_path: Path, _quick_families: None) -> Scheduler:
    """Its two processes have imported all that trials need."""
    drawn = [draw(n, seed=0, classification=bool(n % 2)) for n in range(12)]
    drawn = list({(one.family, one.classification): one for one in drawn}.values())
    folder = tmp_path / "ready"
    folder.mkdir()
    for future in [executor.submit(get_ready, folder / name, drawn) for name in "ab"]:
        future.result()
    return Scheduler(executor)


def get_ready(mark: Path, configurations: list[Configuration]) -> None:
    for configuration in configurations:
        run_trial(small(classification=configuration.classification), configuration)
    mark.touch()
    while len(list(mark.parent.iterdir())) < 2:  # the other has to be another process
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def _quick_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is drawn here: others take seconds, on a few rows too."""
    quick = {name: pipelines.FAMILIES[name] for name in ("linear", "neighbours", "svm")}
    monkeypatch.setattr(pipelines, "FAMILIES", quick)


@pytest.fixture(autouse=True)
def _this_file_travels_by_value() -> Iterator[None]:
    """Task processes cannot import it."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.parametrize("classification", [True, False], ids=["classification", "regression"])
def test_a_search_scores_its_trials_and_fits_the_best(
    scheduler: Scheduler, classification: bool
) -> None:
    ended: list[Trial] = []
    dataset = small(classification=classification)
    search = RandomSearch(dataset, n_trials=6, n_parallel=2, on_trial=ended.append)
    search.run(scheduler, PynisherPlugin(walltime_limit=20))
    assert sorted(trial.number for trial in ended) == list(range(6))
    ranking = search.ranking()
    assert [trial.score for trial in ranking] == sorted((t.score for t in ranking), reverse=True)
    assert search.best is ranking[0]
    assert len(search.model.predict(dataset.features)) == ROWS
    assert any(trial.usage is not None and trial.usage.peak_memory > 0 for trial in ended)


def test_equal_seeds_give_equal_scores_however_many_run_at_one_time(
    executor: ProcessExecutor,
) -> None:
    scores = []
    for n_parallel in (1, 2):
        search = RandomSearch(small(), n_trials=5, n_parallel=n_parallel, seed=3, fit_best=False)
        search.run(Scheduler(executor), PynisherPlugin())
        scores.append([(t.number, t.configuration, t.score) for t in search.trials])
    assert scores[0] == scores[1]


def hog() -> None:
    block = b"x" * (600 * 2**20)
    time.sleep(len(block))


def burn() -> None:
    while True:
        pass


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def fail() -> None:
    raise ValueError("a [bracket]\nand a second line")


@pytest.mark.parametrize(
    ("status", "act", "limits", "error"),
    [
        ("memory", hog, {"memory_limit": "500 MiB"}, r"run_trial\(\) went over its memory .*MiB"),
        ("wall time", lambda: time.sleep(60), {"walltime_limit": 6}, r"went over its wall_time"),
        ("cpu time", burn, {"cputime_limit": 2}, r"went over its cpu_time"),
        ("crashed", crash, {}, r"SIGSEGV"),
        ("raised", fail, {}, r"^ValueError: a \[bracket\]$"),
    ],
    ids=["memory", "wall time", "cpu time", "crashed", "raised"],
)
def test_a_trial_that_breaches_crashes_or_raises_costs_that_trial_only(
    scheduler: Scheduler,
    tmp_path: Path,
    status: str,
    act: Callable[[], None],
    limits: dict[str, Any],
    error: str,
) -> None:
    good = small()
    marker = tmp_path / "acted"

    class Odd:  # the first trial that looks at its target acts
        classification = True
        features = good.features

        @property
        def target(self) -> Any:
            if not marker.exists():
                marker.touch()
                act()
            return good.target

    odd: Any = Odd()
    search = RandomSearch(odd, n_trials=3, n_parallel=1, fit_best=False)
    search.run(scheduler, PynisherPlugin(**limits))
    assert [trial.status for trial in search.trials] == [status, "ok", "ok"]
    first, second, _ = search.trials
    assert re.search(error, first.error)
    assert "\n" not in first.error
    assert first.usage is not None
    assert (first.score, second.error) == (None, "")


def test_when_time_is_up_running_trials_are_cancelled_and_the_best_is_still_fitted(
    scheduler: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "chosen"
    good = small()

    class Slow:  # for all trials but one
        classification = True
        features = good.features
        is_chosen = False

        @property
        def target(self) -> Any:
            if sys._getframe(1).f_code.co_name == "run_trial" and not self.is_chosen:
                try:
                    marker.touch(exist_ok=False)
                    self.is_chosen = True
                except FileExistsError:
                    time.sleep(600)
            return good.target

    call_later, clock = scheduler.call_later, []

    def start_clock(seconds: float, time_is_up: Callable[[], None]) -> Any:
        clock.append((seconds, time_is_up))
        return call_later(600, time_is_up)

    monkeypatch.setattr(scheduler, "call_later", start_clock)

    def let_time_be_up(trial: Trial) -> None:  # when one has a score, however long that takes
        if trial.status == "ok":
            call_later(0, clock[0][1])

    slow: Any = Slow()
    search = RandomSearch(slow, n_trials=10_000, n_parallel=2, timeout=1.5, on_trial=let_time_be_up)
    search.run(scheduler, PynisherPlugin())
    assert [seconds for seconds, _ in clock] == [1.5]
    statuses = [trial.status for trial in search.trials]
    assert statuses.count("cancelled") == 2
    assert "running" not in statuses
    assert search.model is not None


def test_a_pipeline_that_cannot_be_fitted_makes_way_for_the_next_best(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    marker = tmp_path / "refused"
    good = small()

    class Moody:  # refuses the first who wants to fit all rows
        classification = True
        target = good.target

        @property
        def features(self) -> Any:
            if sys._getframe(1).f_code.co_name == "fit_pipeline" and not marker.exists():
                marker.touch()
                raise MemoryError("too much for all rows")
            return good.features

    moody: Any = Moody()
    notes: list[str] = []
    search = RandomSearch(moody, n_trials=4, n_parallel=2, on_note=notes.append)
    search.run(scheduler, PynisherPlugin())
    first, second = search.ranking()[:2]
    assert search.best is second
    assert notes == [
        f"trial {first.number} could not be fitted to all rows"
        " (memory): MemoryError: too much for all rows"
    ]


def test_an_error_of_the_callback_ends_the_search_and_is_raised(scheduler: Scheduler) -> None:
    def full(trial: Trial) -> None:
        raise OSError("no space left")

    search = RandomSearch(small(), n_trials=100, n_parallel=2, on_trial=full)
    with pytest.raises(OSError, match="no space left"):
        search.run(scheduler, PynisherPlugin())
    assert len(search.trials) < 10
    assert "running" not in [trial.status for trial in search.trials]


def test_a_class_rarer_than_the_folds_does_not_end_the_search(scheduler: Scheduler) -> None:
    dataset = small()
    target = pd.Series(["often"] * (ROWS - 2) + ["rare", "never again"])
    dataset = Dataset("rare", dataset.features, target, classification=True)
    search = RandomSearch(dataset, n_trials=6, n_parallel=2)
    search.run(scheduler, PynisherPlugin())
    assert search.model is not None


def test_classes_of_one_row_each_do_not_end_the_search(scheduler: Scheduler) -> None:
    target = pd.Series([f"class {n}" for n in range(ROWS)])
    dataset = Dataset("unique", small().features, target, classification=True)
    search = RandomSearch(dataset, n_trials=4, n_parallel=2, fit_best=False)
    search.run(scheduler, PynisherPlugin())
    assert all(trial.status in ("ok", "raised") for trial in search.trials)
