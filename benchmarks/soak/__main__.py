"""The program: soaks, and says what it has found."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import click
import dask

from benchmarks.report import this_machine
from benchmarks.soak.census import processes
from benchmarks.soak.growth import Samples, Trend, trends
from benchmarks.soak.plot import draw
from benchmarks.soak.soak import Soak, timed
from dask_limits import Scheduler

FOLDER = click.Path(file_okay=False, path_type=Path)
PLACES = 2
WAYS = {
    "processes": (lambda: Scheduler.with_processes(PLACES), 1_000_000),
    "dask": (lambda: Scheduler.with_dask(n_workers=PLACES), 100_000),
}
"""How to make the scheduler, and how many calls there are by default."""

SHORT_LOGS = {"distributed.admin.low-level-log-length": 100}
"""Dask's scheduler keeps 1,000 events of a topic: it takes half an hour until these are full."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("where", type=click.Choice([*WAYS]))
@click.option("--calls", type=click.IntRange(20), help="The most calls.")
@click.option("--minutes", type=float, default=600.0, help="The most time.")
@click.option("--seed", type=int, help="Of what calls do, and what is killed; else a random one.")
@click.option("--kill-every", type=float, default=2.0, help="Seconds, on average.")
@click.option("--sample-every", type=float, default=0.5, help="Seconds.")
@click.option("--out", type=FOLDER, default=Path("results"), help="For the samples and the plot.")
def main(
    where: str,
    calls: int | None,
    minutes: float,
    seed: int | None,
    kill_every: float,
    sample_every: float,
    out: Path,
) -> None:
    """Run many limited calls WHERE, with faults; fail if any is told twice or never, or if
    something grows."""
    make, usual = WAYS[where]
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    click.echo(f"seed {seed}")
    dask.config.set(SHORT_LOGS)
    out.mkdir(parents=True, exist_ok=True)
    samples = Samples(out / f"soak-{where}.csv")
    soak = Soak(
        make(),
        calls=calls or usual,
        seconds=minutes * 60,
        seed=seed,
        kill_every_s=kill_every,
        sample_every_s=sample_every,
        samples=samples,
    )
    seconds = timed(soak.run)
    found = list(trends(samples.read()))
    wrong = [*soak.told.wrong, *(f"{role} {pid} is left" for role, pid in left())]
    most = PLACES * soak.killer.killed.total()
    if soak.told.n_killed > most:
        wrong.append(f"kills ended {soak.told.n_killed} calls, and {most} at most were running")
    wrong += [f"{one.measure} of the {one.role} grows" for one in found if one.grows]
    report(soak, seconds, found)
    write(soak, {"where": where, "seed": seed, "seconds": seconds, "wrong": wrong}, out)
    for one in wrong:
        click.echo(f"WRONG: {one}", err=True)
    sys.exit(bool(wrong))


def left() -> list[tuple[str, int]]:
    """What is still there below this process."""
    return [(role, pid) for role, pid in processes() if role not in ("driver", "tracker")]


def report(soak: Soak, seconds: float, found: list[Trend]) -> None:
    told = soak.told
    rate = soak.n_submitted / seconds
    click.echo(f"{soak.n_submitted:,} calls in {seconds:.0f} s, {rate:,.0f} a second")
    click.echo(f"ended: {dict(told.ends.most_common())}")
    click.echo(
        f"killed: {dict(soak.killer.killed)}, which ended {told.n_killed} calls"
        f" and had {told.n_reruns} run again"
    )
    first, last = soak.timed
    click.echo(
        f"the last calls took {last.wall_s / first.wall_s:.2f} of the time of the first, and"
        f" {last.cpu_s / first.cpu_s:.2f} of the CPU time of this process"
    )
    for one in found:
        divisor, unit = (2**20, " MiB") if one.measure == "memory" else (1, "")
        change = f"{one.first / divisor:.4g} -> {one.last / divisor:.4g}{unit}"
        click.echo(f"  {one.role:9} {one.measure:9} {change}{' GROWS' if one.grows else ''}")


def write(soak: Soak, about: dict[str, Any], out: Path) -> None:
    """All figures but the samples as JSON, and a picture of those if matplotlib is installed."""
    told = soak.told
    about |= {
        "machine": this_machine(),
        "calls": soak.n_submitted,
        "ends": told.ends,
        "killed": soak.killer.killed,
        "ended by kills": told.n_killed,
        "reruns": told.n_reruns,
        "timed calls": [took._asdict() for took in soak.timed],
    }
    name = f"soak-{about['where']}"
    (out / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n")
    title = f"{soak.n_submitted:,} calls on {about['where']}, seed {about['seed']}"
    try:
        draw(soak.samples.read(), title, out / f"{name}.png")
    except ModuleNotFoundError:
        click.echo("No picture: matplotlib is not installed")


if __name__ == "__main__":
    main()
