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
    for machine in machines:
        console.print(_machine(machine, *_marks(console)))
    failed = [f for machine in machines for f in machine.findings if not f.holds]
    if failed:
        names = ", ".join(dict.fromkeys(finding.name for finding in failed))
        console.print(Text(f"Failed: {names}.", style="bold red"))
    elif not machines:
        console.print(Text("The cluster has no workers.", style="bold red"))
    else:
        console.print(Text("All limits hold.", style="bold green"))


def _marks(console: Console) -> tuple[Text, Text]:
    """The marks of success and failure."""
    good, bad = ("ok", "failed") if console.options.ascii_only else ("✓", "✗")
    return Text(good, style="green"), Text(bad, style="red")


def _machine(machine: Machine, good: Text, bad: Text) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    for name, value in machine.facts.items():
        facts.add_row(Text(name, style="dim"), escape(value))
    findings = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("", "trial", "expected", "measured"):
        findings.add_column(column, overflow="fold")
    for finding in machine.findings:
        findings.add_row(
            good if finding.holds else bad,
            escape(finding.name),
            escape(finding.promise),
            escape(finding.measured),
        )
    return Group(Text(f"\n{machine.where}", style="bold"), facts, Text(""), findings, Text(""))
