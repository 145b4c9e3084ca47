"""The `dask-limits` command: a file for each of its commands, and the options they share."""

from __future__ import annotations

import click

from dask_limits.cli.check import check_command
from dask_limits.cli.search import search_command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dask-limits")
def main() -> None:
    """Run work under limits of memory, CPU time and wall time."""


main.add_command(check_command)
main.add_command(search_command)
