from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from dask_limits.cli import where
from dask_limits.cli.instead import BatchCommand
from dask_limits.cli.options import COUNT, MEMORY, TIME, BadInput, end_sentence
from dask_limits.cli.output import discard_output, ended_by_ctrl_c

_FACTORS: Final = {"memory_factor", "wall_time_factor", "cpu_time_factor"}


@click.command("batch", cls=BatchCommand, context_settings={"show_default": True})
@click.argument("file", metavar="FILE|TEMPLATE", required=False)
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUES",
    help="Values for {NAME} of the TEMPLATE: lr=0.1,0.01 or seed=1..10 (0..100..10: every tenth)."
    " With several of these, each combination runs.",
)
@click.option(
    "--csv",
    "table",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Values for the TEMPLATE: a row for each command, {NAME} is the column of that name.",
)
@click.option("--memory", **MEMORY, help="Limit of each command, with all that it starts.")
@click.option("--cpu-time", **TIME, help="Limit of each command, with all that it starts.")
@click.option("--wall-time", **TIME, help="Limit of each command.")
@click.option("--num-processes", **COUNT, help="Limit of each command.")
@click.option("--cores", **COUNT, help="Cores that each command reserves.")
@click.option("--retries", type=click.IntRange(0), default=0, help="Further tries of what fails.")
@click.option(
    "--retry-exits/--no-retry-exits",
    default=True,
    help="Whether an exit code other than 0 is retried, too.",
)
@click.option(
    "--memory-factor", type=click.FloatRange(1), default=1.0, help="Raises the limit each retry."
)
@click.option(
    "--wall-time-factor", type=click.FloatRange(1), default=1.0, help="The same for wall time."
)
@click.option(
    "--cpu-time-factor", type=click.FloatRange(1), default=1.0, help="The same for CPU time."
)
@click.option(
    "--executor",
    type=click.Choice(["processes", "dask", *where.SUBMITS]),
    default="processes",
    help="Where commands run: in local processes, on Dask, or in jobs of a batch system.",
)
@where.options("slurm, pbs, ...", "command")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="A new directory: output/1.out, output/1.err, ..., results.csv, and what --resume needs.",
)
@click.option("--keep-order/--no-keep-order", help="Tell of commands in their order.")
@click.option("--fail-fast/--no-fail-fast", help="End all at the first command that fails.")
@click.option("--dry-run", is_flag=True, help="Print the commands that would run.")
@click.option(
    "--resume",
    type=click.Path(exists=True, path_type=Path, file_okay=False),
    help="Go on with the batch of this directory: what has ended does not run again. Options that"
    " are given, such as --memory, replace those of then.",
)
@click.option(
    "--rerun",
    type=click.Choice(["none", "failed", "all"]),
    default="none",
    help="With --resume: which commands run again that have ended. How these have ended is"
    " forgotten first.",
)
@click.pass_context
def batch_command(ctx: click.Context, /, **_: Any) -> None:
    """Run the commands of FILE, one a line, each under limits of its own.

    Blank lines and those that begin with # are passed over; FILE - is standard input. With --param
    or --csv there is a TEMPLATE instead, such as 'python train.py --lr {lr}', filled for each
    combination or row; values are quoted, and {{ and }} are braces.

    Commands run in /bin/sh, in this directory, with DASK_LIMITS_INDEX (1, 2, ...) and, if it is
    known, DASK_LIMITS_COUNT in their environment. Without --out, the output of each is printed when
    it has ended, in one piece.

    Memory is given as 300MiB or "2 GB", time as 0.5s, 5m or "1h 30m".

    Exit codes: 0 if all have succeeded, 1 if one has failed, 2 for bad input, 130 after Ctrl-C, 143
    after SIGTERM. Both end all commands at once; a second one ends this program in any case.
    """
    with ended_by_ctrl_c():
        from dask_limits.batch.settings import Settings
        from dask_limits.batch.sources import SourceError
        from dask_limits.cli.run_batch import run_batch
        from dask_limits.exceptions import JournalError

    options = _options(ctx, Settings)
    asked = {
        name: options.pop(name)
        for name in ("worker_memory", "walltime", "queue", "account", "interface", "worker_timeout")
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    try:
        source = _source(options)
        if options["dry_run"]:
            _print(_to_run(source, options))
            return
    except (SourceError, JournalError) as error:
        raise BadInput(str(error)) from None
    if source.count == 0 and options["resume"] is None:
        click.echo(f"batch: {options['file']} has no commands", err=True)
        return
    where.check(
        options["executor"],
        options["scheduler_address"],
        options["workers"],
        asked,
        "slurm, pbs, ...",
    )
    sys.exit(run_batch(source, options, asked))


def _options(ctx: click.Context, settings: Any) -> dict[str, Any]:
    """The options as given; of a batch that is resumed, those of then where there are none."""
    options = dict(ctx.params)
    given = {
        name
        for name in options
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
        and options[name] is not None
    }
    resume: Path | None = options["resume"]
    options = (
        _new(options, given, settings)
        if resume is None
        else _resumed(options, given, settings, resume)
    )
    if not options["retries"] and (factors := sorted(given & _FACTORS)):
        name = factors[0].replace("_", "-")
        raise BadInput(f"--{name} needs --retries: it raises the limit of each further try.")
    return options


def _new(options: dict[str, Any], given: set[str], settings: Any) -> dict[str, Any]:
    """The options of a new batch."""
    if "rerun" in given:
        raise BadInput("--rerun needs --resume.")
    if options["file"] is None:
        raise BadInput("Give a FILE of commands, - for standard input, or --resume DIR.")
    if options["params"] and options["table"]:
        raise BadInput("--param and --csv cannot go together: add a column to the CSV file.")
    out: Path | None = options["out"]
    if out is not None and out.exists() and any(out.iterdir()):
        hint = f": --resume {out} goes on with it" if settings.is_in(out) else ""
        raise BadInput(f"--out {out} is not empty{hint}.")
    return options | {"cwd": Path.cwd()}


def _resumed(
    options: dict[str, Any], given: set[str], settings: Any, resume: Path
) -> dict[str, Any]:
    """The options of a batch that is resumed."""
    if wrong := given & {"file", "params", "table", "out"}:
        names = {"file": "FILE", "params": "--param", "table": "--csv", "out": "--out"}
        raise BadInput(f"--resume cannot go with {names[min(wrong)]}: that is what it was then.")
    try:
        then = settings.load(resume)
    except (OSError, ValueError) as error:
        why = end_sentence(str(error))
        raise BadInput(f"{resume} has no batch that can be resumed: {why}") from None
    return options | {n: v for n, v in then.items() if n not in given} | {"out": resume.absolute()}


def _source(options: dict[str, Any]) -> Any:
    from dask_limits.batch.pipe import Copy
    from dask_limits.batch.sources import Source

    table = options["table"]
    is_copied = options["resume"] is not None and options["file"] == "-"
    return Source(
        options["file"],
        options["params"],
        None if table is None else options.get("cwd", Path()) / table,
        options["cwd"],
        Copy(options["out"]).path if is_copied else None,
    )


def _to_run(source: Any, options: dict[str, Any]) -> Any:
    """The commands that would run."""
    from dask_limits import Journal
    from dask_limits.batch.item import Run
    from dask_limits.batch.journal import NAME, to_run

    if options["resume"] is None:
        return source.items()
    journal = Journal(options["out"] / NAME, rerun=options["rerun"], changed="keep")
    run = Run(options["out"], source.count, options["cwd"])
    return to_run(source.items(), run, journal)


def _print(items: Any) -> None:
    from dask_limits.batch.results import standard_stream

    try:
        with standard_stream(sys.stdout) as output:
            for item in items:
                output.write(os.fsencode(item.line) + b"\n")
    except BrokenPipeError:  # of `| head`, for instance
        discard_output()
    except OSError as error:
        raise click.ClickException(f"The commands cannot be shown: {error.strerror}.") from None
