"""The output of a search: a line per trial, or the best ones on a terminal; then a leaderboard."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dask_limits import Display
from dask_limits.search.data import N_FOLDS
from dask_limits.search.random_search import STATUSES, RandomSearch, Trial, run_trial

if TYPE_CHECKING:
    from dask_limits import JobState, Scheduler, WorkerInfo

_ESCAPED: Final = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160)) if chr(n) not in "\n\t"}
"""Control characters, which could start terminal commands, and what is shown instead."""
_COLOURS: Final = {"ok": "green", "raised": "red", "crashed": "red", "cancelled": "dim"}


class OutputError(Exception):
    """Standard output fails; the message is one sentence."""


class Report:
    """Shows a search while it runs, and its summary.

    Names, errors and data reach the console as `Text`, never as markup. All methods that print
    raise OutputError if that fails.
    """

    def __init__(self, console: Console, search: RandomSearch) -> None:
        if not console.is_terminal:
            console.width = max(console.width, 120)  # a file has no width; rich assumes 80
        self._console = console
        self._search = search
        self._started = time.monotonic()
        self._is_over = False
        self._workers: set[str] | None = None  # their names; None if not watched
        self._waited_for: dict[str, JobState] = {}  # by the names of their workers

    def watch(self, scheduler: Scheduler) -> None:
        """Show workers too: those of a batch system may wait long, and may be lost."""
        self._workers = workers = set()

        def tell(line: str) -> None:
            try:
                self._tell(line)
            except OutputError as error:
                scheduler.stop(exception=error)

        @scheduler.on_waiting_for_workers
        def waiting(jobs: tuple[JobState, ...]) -> None:
            before = _in_words(self._waited_for.values())
            self._waited_for = {job.name: job for job in jobs if job.name not in workers}
            if (now := _in_words(self._waited_for.values())) not in ("", before):
                tell(f"waiting for workers: {now}")

        @scheduler.on_worker_added
        def added(worker: WorkerInfo) -> None:
            workers.add(worker.name)
            self._waited_for.pop(worker.name, None)
            tell(f"worker {worker.name} was added{_of_job(worker)}")

        @scheduler.on_worker_removed
        def removed(worker: WorkerInfo, reason: str) -> None:
            workers.discard(worker.name)
            if scheduler.running():
                tell(f"worker {worker.name} was removed{_of_job(worker)}{reason and ': '}{reason}")

    def display(self, scheduler: Scheduler) -> Display | bool:
        """What to show of the run: on a terminal a live view, below the best trials."""
        if not self._console.is_terminal:
            return False  # each trial has a line of its own

        @scheduler.on_finished
        def give_way_to_the_summary() -> None:
            self._is_over = True

        n_fits = 1 if self._search.fit_best else 0
        return Display(total=self._search.n_trials + n_fits, above=self)

    def say(self, line: str) -> None:
        """Print a line without wrapping it."""
        self._print(Text(line.translate(_ESCAPED)), soft_wrap=True)

    def _tell(self, line: str) -> None:
        """Print a line, except on a terminal: the live view shows it."""
        if not self._console.is_terminal:
            self.say(line)

    def trial_ended(self, trial: Trial) -> None:
        """Print how a trial ended, except on a terminal: the live view shows it."""
        cells = (
            f"trial {trial.number:<4} {trial.configuration.family:17} {trial.status:9}",
            "      " if trial.score is None else f"{trial.score:6.4f}",
            f"{_seconds(trial):>6} s {_mib(trial):>5} MiB" if trial.usage else "",
            trial.error,
        )
        self._tell("  ".join(cells).rstrip())

    def note(self, note: str) -> None:
        """Print an unusual event; on a terminal it stays above the live view."""
        self.say(f"note: {note}")

    def sum_up(self) -> None:
        """Print the leaderboard, how trials ended, and the wall time."""
        search = self._search
        if search.ranking():
            self._print(_leaderboard(search, most=10))
            metric = "balanced accuracy" if search.dataset.classification else "R²"
            self.say(f"score: {metric}, mean and standard deviation of {N_FOLDS} folds")
        counts = Text(f"trials: {len(search.trials)}")
        if search.trials:
            counts.append(" (").append_text(_endings(search.trials)).append(")")
        self._print(counts, soft_wrap=True)
        self.say(f"wall time: {self._elapsed:.1f} s")

    def suggest(self, scheduler: Scheduler) -> None:
        """Print the limits that nearly all trials would have kept, as options."""
        for one in scheduler.report().suggest_limits():
            if one.task == run_trial.__name__ and one.limits:
                options = one.options.replace("--", "--trial-")
                self.say(f"limits by what trials used: {options}")
                for note in one.notes:
                    self.note(note)

    def _print(self, what: Text | Table, **options: Any) -> None:
        try:
            self._console.print(what, **options)
        except OSError as error:
            raise OutputError(
                "The search cannot be shown: standard output fails with"
                f" {error.strerror or str(error)!r}."
            ) from error

    def __rich__(self) -> RenderableType:
        """The best trials so far."""
        show = not self._is_over and any(trial.score is not None for trial in self._search.trials)
        return _leaderboard(self._search, most=5) if show else Group()

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._started


def _in_words(jobs: Iterable[JobState]) -> str:
    """Such as "2 jobs PENDING (Resources), 1 job RUNNING (Dask is starting)"."""
    starting = {"RUNNING": " (Dask is starting)"}
    states = Counter(
        (job.state or "submitted")
        + (f" ({job.reason})" if job.reason else starting.get(job.state, ""))
        for job in jobs
    )
    return ", ".join(f"{n} job{'s' * (n > 1)} {state}" for state, n in states.items())


def _of_job(worker: WorkerInfo) -> str:
    return f" (job {worker.job})" if worker.job else ""


def _leaderboard(search: RandomSearch, most: int) -> Table:
    table = Table(box=None, header_style="bold", expand=True)
    for heading in ("", "trial"):
        table.add_column(heading, justify="right")
    table.add_column("family", no_wrap=True)
    for heading in ("score", "±", "s", "MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("configuration", no_wrap=True, ratio=1, style="dim")
    for place, trial in enumerate(search.ranking()[:most], 1):
        cells = (
            str(place),
            str(trial.number),
            trial.configuration.family,
            f"{trial.score:.4f}",
            f"{trial.score_std:.4f}",
            _seconds(trial),
            _mib(trial),
            _in_short(trial),
        )
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _endings(trials: Iterable[Trial]) -> Text:
    counts = Counter(trial.status for trial in trials)
    return Text(", ").join(
        Text(f"{counts[status]} {status}", _COLOURS.get(status, "yellow"))
        for status in STATUSES
        if counts[status]
    )


def _seconds(trial: Trial) -> str:
    return f"{trial.usage.wall_time:.1f}" if trial.usage else "-"


def _mib(trial: Trial) -> str:
    return f"{trial.usage.peak_memory / 2**20:.0f}" if trial.usage else "-"


def _in_short(trial: Trial) -> str:
    """The parameters of the model; trials.csv has all parameters."""
    return " ".join(
        f"{name.rpartition('__')[2]}={value}"
        for name, value in trial.configuration.parameters.items()
        if not name.startswith("columns__") and not name.endswith("__random_state")
    )
