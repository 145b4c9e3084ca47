"""Rounds that alternate between peers, and a table of the results.

Machines are noisy, so no peer is measured alone: each round measures every peer once. The table
has the median over the rounds, and its ratio to that of the first peer.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from rich.console import Console
from rich.table import Table


def compare(title: str, unit: str, peers: dict[str, Callable[[], float]], rounds: int = 5) -> None:
    """Measure all peers in turn, and print a table.

    Args:
        title: The title of the table.
        unit: The unit of the figures.
        peers: The name and the measurement of each; the others are compared to the first.
        rounds: How often each is measured.
    """
    figures: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, measure in peers.items():
            figures[name].append(measure())
    table = Table("", f"median, {unit}", "least", "most", "ratio", title=title)
    base = statistics.median(next(iter(figures.values())))
    for name, values in figures.items():
        median = statistics.median(values)
        cells = [f"{x:.4g}" for x in (median, min(values), max(values))]
        table.add_row(name, *cells, f"{median / base:.2f}")
    Console().print(table)
