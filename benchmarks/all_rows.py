"""All rows, by group and by name."""

from __future__ import annotations

from typing import Final

from benchmarks.row import Row
from benchmarks.rows import (
    breaches,
    calls,
    commands,
    dask,
    idle,
    journal,
    packing,
    processes,
    sharing,
    sklearn,
    slurm,
    transfers,
)

GROUPS: Final[dict[str, tuple[Row, ...]]] = {
    "One call at a time": calls.ROWS,
    "Many calls on this machine": processes.ROWS,
    "Many commands on this machine": commands.ROWS,
    "Calls that use scikit-learn": sklearn.ROWS,
    "How late a limit is, and what watching costs": breaches.ROWS,
    "Large arguments and results": transfers.ROWS,
    "Large arguments that come again": sharing.ROWS,
    "On Dask, two workers": dask.ROWS,
    "Placing by memory": packing.ROWS,
    "On SLURM": slurm.ROWS,
    "Journals": journal.ROWS,
    "What stays": idle.ROWS,
}
ROWS: Final = {row.name: row for rows in GROUPS.values() for row in rows}
