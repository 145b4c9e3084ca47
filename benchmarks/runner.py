"""Measures rows, in rounds that alternate between us and our peers."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.row import OURS, Goal, Mode, Peer, Row

ROOT: Final = Path(__file__).parents[1]
ENVIRONMENT: Final = os.environ | {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
}
"""Parsl finds its programs, and its workers find the functions of the calls, by these alone."""
TIMEOUT_S: Final = 300
"""No side takes that long; one that hangs does not keep the others from being measured."""


@dataclass(frozen=True)
class Figure:
    """The median over the rounds, and its spread."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Line:
    """A line of the table: a row beside one of its peers, or by itself.

    Attributes:
        name: "row/peer", or "row".
        what: What is measured.
        beside: What it is compared with, or "".
        unit: Of the figures.
        size: That it was measured with.
        ours: Our figure; None if it could not be measured.
        peer: The peer's.
        ratio: Of our speed to the peer's if the goal is "at least", else of our cost.
        goal: What it is to reach, or "".
        met: Whether it does; None without a goal, and without figures.
        missing: Why a figure is missing, or "".
    """

    name: str
    what: str
    beside: str
    unit: str
    size: int
    ours: Figure | None
    peer: Figure | None
    ratio: float | None
    goal: str
    met: bool | None
    missing: str


class SideError(Exception):
    """A side that could not be measured, and why: its library is not installed, or it fails."""


def measured(row: Row, mode: Mode, rounds: int | None = None) -> Iterator[Line]:
    """Measure a row; its lines."""
    row, size = row.in_mode(mode), row.size(mode)
    figures: dict[str, list[float]] = {side: [] for side in row.sides}
    missing: dict[str, str] = {}
    for _ in range(rounds or row.rounds):
        for side in [side for side in row.sides if side not in missing]:
            try:
                figures[side].append(measure(row, side, size))
            except SideError as error:
                missing[side] = str(error)
    found = {side: summary(values) for side, values in figures.items()}
    ours, why = found[OURS], missing.get(OURS, "")
    if row.goal or not row.peers:
        yield line(row, size, None, row.goal, ours, None, why)
    for peer in row.peers:
        reason = why or missing.get(peer.name, "")
        yield line(row, size, peer, peer.goal, ours, found[peer.name], reason)


def measure(row: Row, side: str, size: int) -> float:
    """Measure one side once, in a process of its own.

    Raises:
        SideError: with the last line of its standard error, if it fails.
    """
    if not callable(ideal := row.sides[side]):
        return ideal
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        answer, errors = Path(folder, "figure"), Path(folder, "errors")
        arguments = [row.ours.__module__, row.name, side, str(size), str(answer)]
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.side", *arguments],
                cwd=ROOT,
                env=ENVIRONMENT | {"RAY_TMPDIR": folder},
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise SideError(f"not done after {TIMEOUT_S} s") from None
        finally:
            end(process)
        if not answer.exists():
            said = errors.read_text(errors="replace").strip().splitlines()
            raise SideError(said[-1] if said else f"exit code {process.returncode}")
        return float(answer.read_text())


def end(process: subprocess.Popen[bytes]) -> None:
    """End it with what it has left, such as idle processes of a pool."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def summary(values: Iterable[float]) -> Figure | None:
    if not (found := sorted(values)):
        return None
    return Figure(statistics.median(found), found[0], found[-1])


def line(
    row: Row,
    size: int,
    peer: Peer | None,
    goal: Goal | None,
    ours: Figure | None,
    theirs: Figure | None,
    missing: str,
) -> Line:
    ratio = None
    if ours and theirs:
        ratio = ours.median / theirs.median
        if row.is_speed != (goal.at_least if goal else row.is_speed):
            ratio = 1 / ratio
    figure = ratio if peer else ours.median if ours else None
    return Line(
        name=f"{row.name}/{peer.name}" if peer else row.name,
        what=row.what.format(size=size),
        beside=peer.what if peer else "",
        unit=row.unit,
        size=size,
        ours=ours,
        peer=theirs,
        ratio=ratio,
        goal=str(goal or ""),
        met=goal.met(figure) if goal and figure is not None else None,
        missing=missing,
    )
