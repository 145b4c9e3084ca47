"""The program: measures each number of workers, and prints the curve."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.functions import echo
from benchmarks.report import this_machine
from benchmarks.scaling.cluster import SimulatedCluster, simulated_cluster
from benchmarks.scaling.points import COSTS, Curve, Point
from benchmarks.timing import Pace, limited
from dask_limits import Scheduler

FILE = click.Path(dir_okay=False, path_type=Path)
SHORT_S = 0.001
FEW = 64
LONG = ((2, 0.1), (10, 0.1), (10, 1.0), (100, 1.0))
"""Workers, and seconds that a call takes: where the workers are the limit, and not Dask."""
LONG_S = 10
LOADED = 10
"""On so many workers calls with a load are measured, too."""
LOAD = 1_000_000
"""Bytes."""
"""How long each of these is measured."""


def measured(
    cluster: SimulatedCluster,
    n_workers: int,
    calls: int,
    in_flight: int,
    call_s: float,
    batch: bool,
    load: int = 0,
) -> Point:
    scheduler = Scheduler.with_dask(cluster.client, batch=batch)
    if call_s == SHORT_S:
        limited(scheduler, Pace(FEW, FEW), echo)  # what is started on first use
    pace = Pace(calls, in_flight)
    before = cluster.used()
    limited(scheduler, pace, echo, *([bytes(load)] if load else []))
    n_all = calls + calls // 10 + in_flight  # with the warm-up
    costs = (1e6 * seconds / n_all for seconds in cluster.used().since(before))
    return Point(n_workers, in_flight, batch, call_s, pace.per_second, *costs, load)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--workers", multiple=True, type=int, default=(2, 10, 100, 1000))
@click.option("--calls", type=int, default=2000, help="To measure with each.")
@click.option("--waiting", type=int, default=10_000, help="Calls that wait, beside a few.")
@click.option("--long/--no-long", default=True, help="Also calls of 0.1 and 1 s.")
@click.option("--json", "file", type=FILE, help="Write the figures there.")
def main(workers: tuple[int, ...], calls: int, waiting: int, long: bool, file: Path | None) -> None:
    """Measure what a call costs by the number of workers, with few calls and with many waiting."""
    curve = Curve(this_machine(), [])
    for n_workers, call_s in [*((n, SHORT_S) for n in workers), *(LONG if long else ())]:
        with simulated_cluster(n_workers, call_s) as cluster:
            click.echo(f"{n_workers} workers, calls of {call_s:g} s ...", err=True)
            if call_s == SHORT_S:
                for batch in (False, True):
                    for in_flight in (max(FEW, 2 * n_workers), waiting):
                        point = measured(cluster, n_workers, calls, in_flight, call_s, batch)
                        curve.points.append(point)
                if n_workers == LOADED:
                    few = calls // 10
                    point = measured(cluster, n_workers, few, FEW, call_s, batch=False, load=LOAD)
                    curve.points.append(point)
            else:
                n = int(LONG_S * n_workers / call_s)
                point = measured(cluster, n_workers, n, 3 * n_workers, call_s, batch=False)
                curve.points.append(point)
        if file:
            curve.write(file)
    Console(width=140).print(table(curve))


def table(curve: Curve) -> Table:
    columns = ("workers", "in flight", "batches", "a call takes", "calls/s", *COSTS)
    made = Table(*columns, caption="us of CPU time a call")
    for one in curve.points:
        costs = (f"{getattr(one, name):,.0f}" for name in COSTS)
        about = (f"{one.workers:,}", f"{one.in_flight:,}", "yes" if one.batch else "no")
        made.add_row(*about, f"{one.call_s:g} s", f"{one.per_second:,.0f}", *costs)
    return made


if __name__ == "__main__":
    main()
