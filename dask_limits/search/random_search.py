"""Random search over pipelines, each trial under its own limits.

It uses the public API of dask_limits alone: copy this file to start a search of your own. The
search space is in `pipelines.py`, the output in `report.py`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dask_limits import Display, PynisherPlugin, Scheduler, Usage
from dask_limits.exceptions import (
    CallError,
    CpuTimeoutException,
    LimitRefusedError,
    WallTimeoutException,
)
from dask_limits.search import pipelines
from dask_limits.search.data import N_FOLDS, Dataset
from dask_limits.search.pipelines import Configuration, build, draw

ENDINGS: Final = {
    MemoryError: "memory",  # of the limit, and of arrays that no machine could hold
    WallTimeoutException: "wall time",
    CpuTimeoutException: "cpu time",
    LimitRefusedError: "refused",
    CallError: "crashed",  # any other end that is not an exception of the trial
    BaseException: "raised",
}
"""The status of a trial by the exception that ended it; the first match counts."""

STATUSES: Final = ("ok", *ENDINGS.values(), "cancelled")

_MOST_FITS: Final = 5
"""How many of the best configurations are tried for the final model, if fitting fails."""


@dataclass
class Trial:
    """A configuration and its result."""

    number: int
    configuration: Configuration
    status: str = "running"  # or one of STATUSES
    score: float | None = None  # mean over the folds, higher is better
    score_std: float | None = None
    usage: Usage | None = None
    error: str = ""  # the first line of the exception that ended it


def run_trial(dataset: Dataset, configuration: Configuration) -> tuple[float, float]:
    """Score a configuration by cross-validation. Runs on a worker, under the limits.

    Returns the mean and the standard deviation, over the folds, of balanced accuracy or R².
    """
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
    from threadpoolctl import threadpool_limits

    # If no class has as many rows as there are folds, stratifying is not possible
    stratify = configuration.classification and dataset.target.value_counts().max() >= N_FOLDS
    folds = (StratifiedKFold if stratify else KFold)(N_FOLDS, shuffle=True, random_state=0)
    pipeline = build(configuration)  # first, to load all libraries that have threads
    with warnings.catch_warnings(), threadpool_limits(1):  # one core per worker
        warnings.simplefilter("ignore")  # the score of a poor configuration says enough
        scores = cross_val_score(
            pipeline,
            dataset.features,
            dataset.target,
            cv=folds,
            scoring="balanced_accuracy" if configuration.classification else "r2",
            error_score="raise",
        )
    if not math.isfinite(scores.mean()):
        raise ValueError(f"the scores {scores.tolist()} have no finite mean")
    return float(scores.mean()), float(scores.std())


def fit_pipeline(dataset: Dataset, configuration: Configuration) -> Any:
    """Fit a configuration's pipeline to all rows. Runs on a worker, under the limits."""
    from threadpoolctl import threadpool_limits

    pipeline = build(configuration)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        return pipeline.fit(dataset.features, dataset.target)


def modules() -> list[str]:
    """What trials import, for `preload=` of the scheduler that they run on."""
    return [__name__, "pandas", "threadpoolctl", "sklearn.model_selection", *pipelines.modules()]


@dataclass
class RandomSearch:
    """Trials of random configurations; those that breach, crash or raise are only counted.

    Attributes:
        dataset: The data.
        n_trials: How many configurations to try.
        n_parallel: How many run at a time.
        seed: The same seed draws the same configurations, in the same order.
        timeout: Seconds until running trials are cancelled and no more are started; None for no
            timeout.
        fit_best: Whether to fit the best pipeline to all rows at the end, under the limits of a
            trial. If that fails, the next best is fitted.
        on_trial: Called with each trial when it has ended.
        on_note: Called with a sentence about an unusual event.
        trials: All trials that were started, in order.
        best: The trial whose pipeline was fitted.
        model: That pipeline.
        fitting: The trial whose pipeline is being fitted to all rows, or was last.
    """

    dataset: Dataset
    n_trials: int
    n_parallel: int
    seed: int = 0
    timeout: float | None = None
    fit_best: bool = True
    on_trial: Callable[[Trial], object] = lambda trial: None
    on_note: Callable[[str], object] = lambda note: None
    trials: list[Trial] = field(default_factory=list)
    best: Trial | None = None
    model: Any = None
    fitting: Trial | None = None

    def run(
        self,
        scheduler: Scheduler,
        limits: PynisherPlugin,
        display: Display | bool = False,
        journal: Path | None = None,
    ) -> None:
        """Run all trials, then fit the best pipeline. The rest is as for `Scheduler.run`.

        This raises what `on_trial` or `on_note` raised, LimitRefusedError if no worker can run a
        trial with these limits, WorkersNotStartedError if no worker has started, and JournalError
        if the journal cannot be used.
        """
        self._plan_trials(scheduler, limits)
        if self.fit_best:
            self._plan_final_fit(scheduler, limits)
        goes_on: Any = {"on_exception": "continue", "on_cancelled": "continue"}
        state = scheduler.run(wait=False, display=display, journal=journal, **goes_on)
        if state.exception is not None:
            raise state.exception

    def ranking(self) -> list[Trial]:
        """The trials that have a score, best first."""
        scored = [trial for trial in self.trials if trial.score is not None]
        return sorted(scored, key=lambda trial: -(trial.score or 0))

    def _plan_trials(self, scheduler: Scheduler, limits: PynisherPlugin) -> None:
        task = scheduler.task(run_trial, plugins=limits.copy(), key=self._key)
        numbers = iter(range(self.n_trials))
        running: dict[Future[Any], Trial] = {}
        clock: list[Any] = []

        def start_next(*_: object) -> None:
            if not scheduler.running() or (number := next(numbers, None)) is None:
                return
            classification = self.dataset.classification
            trial = Trial(number, draw(number, seed=self.seed, classification=classification))
            future = task.submit(self.dataset, trial.configuration)
            assert future is not None  # no plugin here refuses a call
            running[future] = trial
            self.trials.append(trial)

        scheduler.on_start(start_next, repeat=self.n_parallel)
        task.on_done(start_next)
        task.on_cancelled(start_next)

        @task.on_result
        def keep_score(future: Future[Any], score: tuple[float, float]) -> None:
            running[future].score, running[future].score_std = score
            end(future, "ok")

        @task.on_exception
        def keep_error(future: Future[Any], error: BaseException) -> None:
            running[future].error = first_line(error)
            end(future, status_of(error))
            if isinstance(error, LimitRefusedError):  # all trials have the same limits
                scheduler.stop(exception=error)

        @task.on_rerun
        def note_rerun(future: Future[Any], error: BaseException, attempt: int) -> None:
            number = running[future].number
            note = f"trial {number} was started again: {first_line(error)}"
            _tell(scheduler, self.on_note, note)

        task.on_cancelled(lambda future: end(future, "cancelled"))

        def end(future: Future[Any], status: str) -> None:
            trial = running.pop(future)
            trial.status, trial.usage = status, getattr(future, "usage", None)
            _tell(scheduler, self.on_trial, trial)
            if not running:
                for timer in clock:
                    timer.cancel()

        @scheduler.on_start
        def start_clock() -> None:
            if self.timeout is not None and scheduler.running():
                clock.append(scheduler.call_later(self.timeout, time_is_up))

        def time_is_up() -> None:
            for _ in numbers:
                pass  # start no more trials
            for future in list(running):
                future.cancel()

    def _key(self, dataset: Dataset, configuration: Configuration) -> str:
        """What a journal knows a call by: the data is the same for all, so it is hashed once."""
        return f"{dataset.token} {configuration.family} {dict(configuration.parameters)}"

    def _plan_final_fit(self, scheduler: Scheduler, limits: PynisherPlugin) -> None:
        fit = scheduler.task(fit_pipeline, plugins=limits.copy(), key=self._key)
        tried: list[Trial] = []

        @scheduler.on_empty
        def fit_next_best() -> None:
            ranking = self.ranking()[:_MOST_FITS]
            if self.model is None and len(tried) < len(ranking):
                self.fitting = ranking[len(tried)]
                tried.append(self.fitting)
                fit.submit(self.dataset, self.fitting.configuration)

        @fit.on_result
        def keep_model(_: object, model: Any) -> None:
            self.best, self.model = tried[-1], model

        @fit.on_exception
        def keep_reason(_: object, error: BaseException) -> None:
            note = (
                f"trial {tried[-1].number} could not be fitted to all rows"
                f" ({status_of(error)}): {first_line(error)}"
            )
            _tell(scheduler, self.on_note, note)


def _tell(scheduler: Scheduler, callback: Callable[[Any], object], news: object) -> None:
    try:
        callback(news)
    except Exception as error:  # such as a full disk: the search cannot go on
        scheduler.stop(exception=error)


def status_of(error: BaseException) -> str:
    """The status of a trial that ended with this exception."""
    return next(name for kind, name in ENDINGS.items() if isinstance(error, kind))


def first_line(error: BaseException) -> str:
    """An exception in one line, with its type if the trial raised it."""
    text = str(error).partition("\n")[0]
    return text if isinstance(error, CallError) else f"{type(error).__name__}: {text}"
