from __future__ import annotations

import json
import sys

import click

from dask_limits.cli.options import BadInput, check_address
from dask_limits.cli.output import discard_output


@click.command("check")
@click.option(
    "--scheduler-address",
    metavar="tcp://...",
    help="Check every worker of the Dask cluster at this address instead of this machine.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check_command(scheduler_address: str | None, as_json: bool) -> None:
    """Try which limits can be enforced here, and how well.

    Takes about ten seconds, for each worker of a host. Exit codes: 0 if every limit holds, 1 if
    one does not, 2 for bad input, 130 after Ctrl-C.
    """
    from rich.console import Console

    from dask_limits.check.machine import check_here, check_workers
    from dask_limits.check.report import show

    try:
        if scheduler_address is not None:
            check_address(scheduler_address)
        with Console(stderr=True).status("Trying") as status:
            tell = lambda what: status.update(f"Trying: {what}")  # noqa: E731
            if scheduler_address is None:
                machines = [check_here(tell)]
            else:
                machines = check_workers(scheduler_address, tell)
    except OSError as error:
        raise BadInput(f"The check cannot start: {str(error).rstrip('.')}.") from None
    holds = bool(machines) and all(machine.holds for machine in machines)
    try:
        if as_json:
            found = {"holds": holds, "machines": [machine.as_dict() for machine in machines]}
            click.echo(json.dumps(found, indent=2))
        else:
            console = Console()
            with console.capture() as capture:  # rich ends the program when the pipe is closed
                show(machines, console)
            click.echo(capture.get(), nl=False)
    except BrokenPipeError:  # of `| head`, for instance
        discard_output()
    except OSError as error:
        discard_output()
        raise click.ClickException(
            f"The result cannot be shown: standard output fails with {error.strerror!r}."
        ) from None
    sys.exit(0 if holds else 1)
