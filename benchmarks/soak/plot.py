"""Draws what was sampled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.soak.census import NOT_COUNTED
from benchmarks.soak.growth import MARGINS, Sample

UNITS: Final = {"memory": 2**20}
LABELS: Final = {"memory": "MiB", "files": "open files"}


def draw(samples: Sequence[Sample], title: str, file: Path) -> None:
    """Of each role, the largest figure of its processes, over the calls that were told.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    roles = sorted({seen.role for sample in samples for seen in sample.seen} - NOT_COUNTED)
    figure, axes = pyplot.subplots(len(MARGINS), sharex=True, figsize=(10, 12), squeeze=True)
    for axis, measure in zip(axes, MARGINS, strict=True):
        for role in roles:
            points = [
                (sample.told, figure_of(sample, role, measure))
                for sample in samples
                if any(seen.role == role for seen in sample.seen)
            ]
            axis.plot(*zip(*points, strict=True), label=role, linewidth=1)
        axis.set_ylabel(LABELS.get(measure, measure))
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend(ncols=len(roles))
    axes[0].set_title(title)
    axes[-1].set_xlabel("calls told")
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def figure_of(sample: Sample, role: str, measure: str) -> float:
    there = [seen for seen in sample.seen if seen.role == role]
    if measure == "processes":
        return len(there)
    return max(getattr(seen, measure) for seen in there) / UNITS.get(measure, 1)
