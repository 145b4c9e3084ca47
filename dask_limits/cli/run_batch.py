"""Runs a batch: its files, its interrupts and its exit code."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click

from dask_limits import Display, Journal, Plugin, PynisherPlugin, Retry, Scheduler
from dask_limits.batch.batch import Batch
from dask_limits.batch.failures import lines_of
from dask_limits.batch.item import Item, Run
from dask_limits.batch.journal import NAME as JOURNAL
from dask_limits.batch.journal import forget
from dask_limits.batch.pipe import Copy
from dask_limits.batch.results import InOrder, Printed, ResultsFile, Writer
from dask_limits.batch.settings import Settings
from dask_limits.batch.sources import Source, SourceError
from dask_limits.cli import where
from dask_limits.cli.interrupts import Interrupts
from dask_limits.cli.options import BadInput, end_sentence
from dask_limits.cli.output import discard_output
from dask_limits.exceptions import (
    CommandError,
    JournalError,
    LimitRefusedError,
    WorkersNotStartedError,
)
from dask_limits.units import format_bytes

_SIGNALLED: Final = 128  # as shells report a program that a signal ended


def run_batch(source: Source, options: dict[str, Any], of_jobs: dict[str, Any]) -> int:
    """Run all commands, and return the exit code. Ctrl-C and SIGTERM end them at any time."""
    code = 0
    with Interrupts() as interrupts:
        folder: Path | None = None
        try:
            plugins = _plugins(options)
            scheduler = _scheduler(options, plugins[0], of_jobs)
            folder = _new_folder(options, source, of_jobs)
            code = _run(source, options, of_jobs, plugins, scheduler, folder, interrupts)
        except BaseException:  # a library may have raised another error instead of Ctrl-C's
            if not interrupts.raised:
                raise
        finally:
            if folder is not None and options["out"] is None:
                shutil.rmtree(folder, ignore_errors=True)
        if interrupts.received:
            code = _SIGNALLED + interrupts.received
        if interrupts.raised:
            sys.stdout.flush()
            os._exit(code)  # what it interrupted may never end by itself
    return code


def _plugins(options: dict[str, Any]) -> tuple[PynisherPlugin, *tuple[Plugin, ...]]:
    names = ("memory", "cpu_time", "wall_time", "num_processes", "cores")
    limits = PynisherPlugin(**{name: options[name] for name in names})
    if not options["retries"]:
        return (limits,)
    retry = Retry(
        max_retries=options["retries"],
        on=(*Retry.USUAL, CommandError) if options["retry_exits"] else Retry.USUAL,
        memory_factor=options["memory_factor"],
        wall_time_factor=options["wall_time_factor"],
        cpu_time_factor=options["cpu_time_factor"],
    )
    return limits, retry


def _scheduler(
    options: dict[str, Any], limits: PynisherPlugin, of_jobs: dict[str, Any]
) -> Scheduler:
    executor, workers = options["executor"], options["workers"]
    if executor in where.SUBMITS:
        return where.in_jobs(executor, workers, limits.limits, "run_command", of_jobs, [])
    if executor == "dask":
        if options["scheduler_address"] is not None:
            return Scheduler.with_dask(options["scheduler_address"])
        return Scheduler.with_dask(n_workers=workers or where.n_workers_here(options["memory"]))
    scheduler = Scheduler.with_processes(workers)
    try:
        scheduler.check_limits(limits.limits, "command")
    except LimitRefusedError as error:
        raise BadInput(_refusal(error)) from None
    return scheduler


def _refusal(error: LimitRefusedError) -> str:
    """What the command line has for a limit that is more than this machine."""
    what = f"{int(error.asked)} cores"
    most = str(int(error.most))
    if error.limit == "memory":
        what = f"{format_bytes(int(error.asked))} of memory"
        most = format_bytes(int(error.most))
    return (
        f"No command could run: each reserves {what}, and there are {most} at most. Lower"
        f" --{error.limit}."
    )


def _new_folder(options: dict[str, Any], source: Source, of_jobs: dict[str, Any]) -> Path:
    """Where the output of commands goes, and what `--resume` needs."""
    out: Path | None = options["out"]
    try:
        if out is None:
            shared = None
            if options["executor"] != "processes":  # whose nodes see the home directory
                shared = Path.home() / ".dask-limits"
                shared.mkdir(mode=0o700, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix="batch-", dir=shared))
        out = options["out"] = out.absolute()
        output = out / "output"
        if options["resume"] is None:
            out.mkdir(mode=0o755, parents=True, exist_ok=True)  # no journal is where others write
            output.mkdir()  # of two batches at a time, one
            _save(out, options, source, of_jobs)
        return output
    except FileExistsError:
        raise BadInput(f"--out {out} is not empty.") from None
    except OSError as error:
        raise BadInput(f"Results cannot be written to {out}: {error.strerror}.") from None


def _save(out: Path, options: dict[str, Any], source: Source, of_jobs: dict[str, Any]) -> None:
    """Write down the options."""
    file = "-" if source.is_piped else options["file"]
    remembered = {
        name: value
        for name, value in (options | of_jobs).items()
        if name not in ("resume", "rerun", "dry_run", "out")
    }
    Settings.save(out, remembered | {"file": file})


def _run(
    source: Source,
    options: dict[str, Any],
    of_jobs: dict[str, Any],
    plugins: tuple[PynisherPlugin, *tuple[Plugin, ...]],
    scheduler: Scheduler,
    folder: Path,
    interrupts: Interrupts,
) -> int:
    out: Path | None = options["out"]
    run = Run(folder, source.count, options["cwd"])
    writer: Writer = Printed(run.files) if out is None else ResultsFile(out / "results.csv")
    if options["keep_order"]:
        writer = InOrder(writer)
    items = _items(source, options, run)
    copy = Copy(out) if out is not None and source.is_piped else None
    if copy is not None and source.waits:
        items = copy.write(items)

    def begin() -> None:
        """Write to the directory of results: while the journal is ours, no other batch does."""
        if out is not None and options["resume"] is not None:
            _save(out, options, source, of_jobs)
        writer.open()

    batch = Batch(
        items,
        run,
        plugins,
        writer,
        begin=begin,
        waits=source.waits,
        fail_fast=options["fail_fast"],
        ahead=_ahead(options),
    )
    journal = None
    if out is not None:
        journal = Journal(out / JOURNAL, changed="keep")
    interrupts.stop(scheduler)
    try:
        batch.run(scheduler, _display(out, source.count), journal)
        writer.close()
    except KeyboardInterrupt:
        pass
    except (LimitRefusedError, WorkersNotStartedError, JournalError) as error:
        raise click.ClickException(f"The batch cannot go on: {error}") from error
    except OSError as error:
        batch.error = batch.error or error
    return _end(
        batch,
        scheduler,
        out,
        source.count,
        interrupts,
        is_cut=copy is not None and not copy.is_whole,
    )


def _items(source: Source, options: dict[str, Any], run: Run) -> Iterable[Item]:
    """The commands; of a batch that is resumed, those first that come back.

    So `results.csv` soon has again what it had.
    """
    if options["resume"] is None:
        return source.items()
    journal = Journal(options["out"] / JOURNAL, rerun=options["rerun"])
    try:
        kept = forget(source.items(), run, journal)
    except JournalError as error:
        raise click.ClickException(f"The batch cannot go on: {error}") from error
    except OSError as error:
        raise click.ClickException(f"The batch cannot go on: {error.strerror}.") from error
    return itertools.chain(
        (item for item in source.items() if item.index in kept),
        (item for item in source.items() if item.index not in kept),
    )


def _ahead(options: dict[str, Any]) -> int | None:
    """How many commands may be given out at a time; None if more than run lie ready."""
    if not options["fail_fast"] or options["executor"] != "processes":
        return None
    return options["workers"] or len(os.sched_getaffinity(0))


def _display(out: Path | None, count: int | None) -> bool | Display:
    """The live view, where the output of the commands does not go."""
    if out is not None:
        return Display(total=count or None)
    if sys.stderr.isatty() and not sys.stdout.isatty():
        return Display(total=count or None, stderr=True)
    return False


def _end(
    batch: Batch,
    scheduler: Scheduler,
    out: Path | None,
    count: int | None,
    interrupts: Interrupts,
    *,
    is_cut: bool,
) -> int:
    """Tell how it has ended, and return the exit code."""
    if isinstance(batch.error, BrokenPipeError):
        discard_output()
    elif isinstance(batch.error, SourceError):
        click.echo(f"Error: {batch.error}", err=True)
    elif isinstance(batch.error, OSError):
        discard_output()
        name = f" ({batch.error.filename})" if batch.error.filename else ""
        click.echo(f"Error: The batch cannot go on: {batch.error.strerror}{name}.", err=True)
    elif batch.error is not None:
        click.echo(f"Error: The batch cannot go on: {end_sentence(str(batch.error))}", err=True)
    if is_cut:
        click.echo(
            "Error: Standard input had not ended when the batch did. It has the commands that had"
            " been read by then; what came after them is another batch.",
            err=True,
        )
    n_waiting = batch.n_waiting
    if count is not None:
        n_waiting = max(0, count - batch.counts.total() - batch.n_cancelled)
    is_whole = not (interrupts.received or batch.error or batch.n_cancelled or n_waiting)
    if out is not None:
        for line in lines_of(batch.failed, out / "output"):
            click.echo(f"failed: {line}", err=True)
        if n_more := batch.n_failed - len(batch.failed):
            click.echo(f"and {n_more} more, see results.csv", err=True)
    if out is not None or batch.n_failed or not is_whole:
        click.echo(_summary(batch, out, n_waiting), err=True)
    if out is not None:
        _suggest(scheduler)
    if out is not None and (batch.n_failed or not is_whole):
        how = "go on" if not is_whole else "run again what has failed"
        more = "" if not is_whole else " --rerun failed"
        click.echo(f"to {how}: dask-limits batch --resume {shlex.quote(str(out))}{more}", err=True)
    if isinstance(batch.error, SourceError):
        return BadInput.exit_code
    return 0 if is_whole and not (batch.n_failed or is_cut) else 1


def _suggest(scheduler: Scheduler) -> None:
    """Tell the limits that nearly all commands would have kept, as options."""
    for one in scheduler.report().suggest_limits():
        if one.limits:
            click.echo(f"limits by what commands used: {one.options}", err=True)
            for note in one.notes:
                click.echo(f"note: {note}", err=True)


def _summary(batch: Batch, out: Path | None, n_waiting: int) -> str:
    failed = ", ".join(f"{n} {end}" for end, n in batch.counts.items() if end != "returned")
    parts = [f"{batch.counts['returned']} succeeded", f"{batch.n_failed} failed"]
    if failed:
        parts[1] += f" ({failed})"
    if batch.n_cancelled:
        parts.append(f"{batch.n_cancelled} ended by this program")
    if n_waiting:
        parts.append(f"{n_waiting} never begun")
    where_to = f"; results: {out / 'results.csv'}" if out is not None else ""
    return f"batch: {', '.join(parts)}{where_to}"
