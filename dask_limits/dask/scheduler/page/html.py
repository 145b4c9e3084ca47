"""The parts of the page "Limits" that are HTML: all that calls have chosen is escaped in them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from html import escape

from dask_limits.dask.ended import Failure
from dask_limits.dask.scheduler.page.columns import ENDINGS
from dask_limits.printable import printable

_HEADING = '<h3 style="margin: 8px 0 2px">{title}</h3><div style="color: #555">{text}</div>'


def heading(title: str, text: str = "") -> str:
    """The heading of a part of the page. The text is plain."""
    return _HEADING.format(title=escape(title), text=escape(text))


def legend(title: str, endings: Mapping[str, int]) -> str:
    """The heading of a plot: how many calls have ended in which way, and the colour of each."""
    square = "display: inline-block; width: 10px; height: 10px; margin-right: 4px; background:"
    entries = [
        f'<span style="margin-right: 14px; white-space: nowrap"><span style="{square} {color}">'
        f"</span>{endings[name]:,} {name}</span>"
        for name, color in ENDINGS.items()
        if endings.get(name)
    ]
    return _HEADING.format(title=escape(title), text=" ".join(entries) or "No call has ended yet.")


def is_in(wanted: str, failure: Failure) -> bool:
    """Whether a text is in what is shown of a call that was ended, in any case."""
    parts = failure.function, failure.ending, failure.worker, failure.message, failure.stacks
    return wanted.lower() in "\n".join(parts).lower()


def of_failure(failure: Failure) -> str:
    """When, how and where a call was ended; its stacks are folded."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(failure.at))
    where = f" on worker {printable(failure.worker)}" if failure.worker else ""
    color = ENDINGS.get(failure.ending, "#000000")
    how = f'<code>{when}</code> <b style="color: {color}">{escape(failure.ending)}</b>'
    line = f"{how}{escape(where)}: {escape(printable(failure.message))}"
    style = "padding: 2px 0; overflow-wrap: anywhere"
    if not failure.stacks:
        return f'<div style="{style}; padding-left: 14px">{line}</div>'
    stacks = "\n".join(escape(printable(text)) for text in failure.stacks.splitlines())
    pre = f'<pre style="margin: 2px 0 8px 14px; overflow-x: auto">{stacks}</pre>'
    return f'<details style="{style}"><summary>{line}</summary>{pre}</details>'
