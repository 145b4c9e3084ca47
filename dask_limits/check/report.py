"""Prints the result of a check."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dask_limits.check.machine import Machine


def show(machines: Sequence[Machine], console: Console) -> None:
    """Print the results, and a last line that says whether all limits hold."""
    good, bad = ("ok", "failed") if console.options.ascii_only else ("✓", "✗")
    marks = {True: Text(good, style="green"), False: Text(bad, style="red")}
    for machine in machines:
        console.print(_machine(machine, marks))
    failed = [f for machine in machines for f in machine.findings if not f.holds]
    if failed:
        names = ", ".join(dict.fromkeys(finding.name for finding in failed))
        console.print(Text(f"Failed: {names}.", style="bold red"))
    elif not machines:
        console.print(Text("The cluster has no workers.", style="bold red"))
    else:
        console.print(Text("All limits hold.", style="bold green"))


def _machine(machine: Machine, marks: dict[bool, Text]) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    for name, value in machine.facts.items():
        facts.add_row(Text(name, style="dim"), escape(value))
    findings = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("", "trial", "expected", "measured"):
        findings.add_column(column, overflow="fold")
    for finding in machine.findings:
        texts = finding.name, finding.promise, finding.measured
        findings.add_row(marks[finding.holds], *map(escape, texts))
    return Group(Text(f"\n{machine.where}", style="bold"), facts, Text(""), findings, Text(""))
