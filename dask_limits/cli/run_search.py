"""Runs a search: its report, its files, its interrupts and its exit code."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import click
import rich

from dask_limits import PynisherPlugin, Scheduler
from dask_limits.cli.interrupts import Interrupts
from dask_limits.cli.options import BadInput
from dask_limits.cli.output import INTERRUPTED, discard_output
from dask_limits.exceptions import JournalError, LimitRefusedError, WorkersNotStartedError
from dask_limits.search.data import DataError
from dask_limits.search.files import Results
from dask_limits.search.random_search import RandomSearch, Trial
from dask_limits.search.report import OutputError, Report


def run_search(
    prepare: Callable[[], tuple[RandomSearch, Scheduler]],
    limits: PynisherPlugin,
    out: Path,
    *,
    resume: bool,
    show_workers: bool,
) -> int:
    """Run a search that Ctrl-C and SIGTERM can end at any time, and return the exit code.

    `prepare` makes the search and the scheduler that it runs on. Ctrl-C may interrupt it too.
    """
    code = INTERRUPTED
    with Interrupts() as interrupts:
        try:
            search, scheduler = prepare()
            try:
                results = Results(out, resume=resume)
            except OSError as error:
                raise BadInput(f"Results cannot be written to {out}: {error.strerror}.") from None
            rich.reconfigure()  # the live view of the run is on this console, too
            report = Report(rich.get_console(), search)
            if show_workers:
                report.watch(scheduler)
            code = _run(search, scheduler, limits, results, interrupts, report)
        except DataError as error:
            raise BadInput(str(error)) from None
        except OutputError as error:
            discard_output()
            raise click.ClickException(str(error)) from None
        except BaseException:  # a library may have raised another error instead of Ctrl-C's
            if not interrupts.raised:
                raise
        if interrupts.raised:
            # What it interrupted, such as the start of a Dask cluster, may never end by itself.
            # All processes below this one end when they notice that it is gone.
            sys.stdout.flush()
            os._exit(code)
    return code


def _run(
    search: RandomSearch,
    scheduler: Scheduler,
    limits: PynisherPlugin,
    results: Results,
    interrupts: Interrupts,
    report: Report,
) -> int:
    def trial_ended(trial: Trial) -> None:
        results.add(trial)
        report.trial_ended(trial)

    search.on_trial, search.on_note = trial_ended, report.note
    report.say(search.dataset.describe())
    for note in search.dataset.notes:
        report.note(note)
    warnings.filterwarnings("ignore", "Sending large graph")  # the graph holds the data
    interrupts.stop(scheduler)
    with closing(results):
        try:
            search.run(scheduler, limits, report.display(scheduler), results.journal)
            if search.model is not None:
                results.save_model(search.model)
        except KeyboardInterrupt:
            pass  # the trials that have ended are shown and kept
        except JournalError as error:
            if search.trials:
                report.sum_up()
            raise click.ClickException(f"The search cannot go on: {error}") from error
        except (LimitRefusedError, WorkersNotStartedError) as error:
            raise click.ClickException(f"No worker can run trials: {error}") from error
        except OSError as error:
            report.sum_up()
            why = error.strerror or str(error).partition("\n")[0].rstrip(". ")
            where = f" ({error.filename})" if error.filename else ""
            raise click.ClickException(f"The search cannot go on: {why}{where}.") from error
    report.sum_up()
    saved = results.best_model.exists()
    if saved and search.best is not None:
        report.say(f"best model: {results.best_model} (trial {search.best.number}, all rows)")
    else:
        report.say("no model was fitted" + (": interrupted" if interrupts.received else ""))
    report.say(f"all trials: {results.trials_csv}")
    report.suggest(scheduler)
    if interrupts.received:
        report.say("to go on: the same command with --resume")
    return INTERRUPTED if interrupts.received else 0 if saved else 1
