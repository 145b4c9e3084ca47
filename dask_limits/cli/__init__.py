"""The `dask-limits` command: a file for each of its commands, and the options they share."""

from __future__ import annotations

import sys
from typing import Any

import click

from dask_limits.cli.batch import batch_command
from dask_limits.cli.check import check_command
from dask_limits.cli.journal import journal_command
from dask_limits.cli.output import INTERRUPTED
from dask_limits.cli.search import search_command
from dask_limits.cli.submit import submit_command


class _Commands(click.Group):
    """Commands that Ctrl-C ends as the shell expects; click would exit with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dask-limits")
def main() -> None:
    """Run work under limits of memory, CPU time and wall time."""


main.add_command(batch_command)
main.add_command(check_command)
main.add_command(journal_command)
main.add_command(search_command)
main.add_command(submit_command)
