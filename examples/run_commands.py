"""Run shell commands, each line of a file, some at a time, each under limits.

A command that goes over a limit is ended with all that it has started, and the others go on. How
each has ended is written to a log; when this is run again with the same log, it leaves out what
has ended well. Run it with

    python examples/run_commands.py commands.txt --jobs 4 --memory 2GiB --wall-time 1h
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import as_completed
from pathlib import Path

from dask_limits import LimitedExecutor
from dask_limits.units import format_bytes, format_seconds

DONE = "done"


def run(command: str) -> None:
    """Run a command; raise an error if it fails."""
    subprocess.run(command, shell=True, check=True)


def done_before(log: Path) -> set[str]:
    """The commands that have ended well, as the log says."""
    lines = log.read_text().splitlines() if log.exists() else []
    rows = (line.split("\t") for line in lines)
    return {row[-1] for row in rows if row[0] == DONE}


def run_all(commands: list[str], executor: LimitedExecutor, log: Path) -> int:
    """Run the commands, write a line of the log for each, and return how many have failed."""
    n_failed = 0
    futures = {executor.submit(run, command): command for command in commands}
    with log.open("a") as file:
        for future in as_completed(futures):
            error, usage = future.exception(), future.usage
            n_failed += error is not None
            how = type(error).__name__ if error else DONE
            used = ("-", "-")  # of what did not run
            if usage is not None:
                used = format_seconds(usage.wall_time), format_bytes(usage.peak_memory)
            print(how, *used, futures[future], sep="\t", file=file, flush=True)
    return n_failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("commands", type=Path, help="a file with a command on each line")
    parser.add_argument("--jobs", type=int, help="how many at a time; by default, all CPUs")
    parser.add_argument("--memory", help="of each command, such as 2GiB")
    parser.add_argument("--wall-time", help="of each command, such as 1h")
    parser.add_argument("--log", type=Path, default=Path("commands.log"))
    options = parser.parse_args()
    before = done_before(options.log)
    given = [line for line in options.commands.read_text().splitlines() if line.strip()]
    left = [command for command in given if command not in before]
    limits = {"memory": options.memory, "wall_time": options.wall_time}
    with LimitedExecutor(options.jobs, **limits) as executor:
        n_failed = run_all(left, executor, options.log)
    print(f"run: {len(left)}, done before: {len(given) - len(left)}, failed: {n_failed}")
    sys.exit(n_failed > 0)
