"""Writes the figures of docs/scaling.json into the documentation: `make docs/scaling.md`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.runner import ROOT
from benchmarks.scaling.points import Curve, Model

JSON: Final = ROOT / "docs" / "scaling.json"
PAGE: Final = ROOT / "docs" / "scaling.md"

TEXT: Final = Path(__file__).with_name("page.md").read_text()


def page(curve: Curve) -> str:
    model = Model.of(curve)
    apart = Model(model.driver, model.scheduler, model.workers)
    task_s = model.scheduler.task
    rows = [
        f"| {one.workers:,} | {one.in_flight:,} | {'yes' if one.batch else 'no'}"
        f" | {one.driver:,.0f} | {one.scheduler:,.0f} | {one.plugin:,.0f} | {one.simulation:,.0f} |"
        for one in curve.short
    ]
    points = [
        f"| {one.workers:,} | {one.call_s:g} s | {one.per_second:,.1f}"
        f" | {model.rate(one.workers, one.call_s):,.1f} |"
        for one in curve.points
        if not one.batch and not one.load and one.in_flight <= 3 * max(one.workers, 64)
    ]
    return TEXT.format(
        **curve.machine,
        short_ms=curve.short[0].call_s * 1000,
        curve="\n".join(rows),
        points="\n".join(points),
        task_us=f"{task_s * 1e6:,.0f}",
        k=model.workers.in_us,
        s=model.scheduler.in_us,
        d=model.driver.in_us,
        bytes=bytes_text(curve),
        alone=apart.rate(10, 0.001),
        together=apart.rate(10, 0.001, 75),
        limit_10=10_000 * task_s,
        limit_100=100 * task_s,
        limit_1000=1000 * task_s,
    )


def bytes_text(curve: Curve) -> str:
    if not (ns := curve.ns_a_byte):
        return "more, by their size"
    return (
        f"{ns['driver']:.1f} ms more of the driver for each MB, {ns['scheduler']:.1f} ms of Dask's"
        f" scheduler, and {ns['simulation']:.1f} ms of the worker"
    )


if __name__ == "__main__":
    PAGE.write_text(page(Curve.read(JSON)))
