from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from dask_limits.units import whole_number

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dask_limits.display.run_view import LiveView


@dataclass(frozen=True)
class Display:
    """How `scheduler.run(display=...)` shows a run.

    Args:
        total: How many calls there will be, if you know: then the time left is shown. `map` over
            a list, or anything else that has a length, needs no total.
        above: What to show above it on a terminal: text, or something of rich.
        stderr: Whether to show it on standard error, not on standard output.

    Raises:
        TypeError: if the total is no whole number.
        ValueError: if it is below 1.

    Example:
        >>> from dask_limits import Scheduler
        >>> scheduler = Scheduler.with_threads(1)
        >>> _ = scheduler.on_start(lambda: scheduler.submit(abs, -3))
        >>> _ = scheduler.run(display=Display(total=1))  # doctest: +ELLIPSIS
        2... run on 1 thread (starting, ...
        2... abs(-3) returned; ...
        2... run on 1 thread (exhausted, ...): 1 returned; ...
    """

    total: int | None = None
    above: RenderableType | None = None
    stderr: bool = False

    def __post_init__(self) -> None:
        if self.total is not None:
            whole_number(self.total, "total", none="a number that is not known")


def has_kernel() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython: Any = sys.modules.get("IPython")
    get_ipython = getattr(ipython, "get_ipython", None)  # it may be another module
    shell = None if get_ipython is None else get_ipython()
    return getattr(shell, "kernel", None) is not None


def view_for(display: Display, stops: Mapping[str, Callable[[], object]]) -> LiveView:
    """What shows a run here: a cell of a notebook, a terminal, or lines where there is neither.

    `stops` is what buttons are to do, see `NotebookView`.
    """
    if has_kernel():
        from dask_limits.display.notebook import NotebookView

        return NotebookView(stops)
    file = sys.stderr if display.stderr else sys.stdout
    if _is_terminal(file):
        from rich import get_console
        from rich.console import Console

        from dask_limits.display.terminal import TerminalView

        console = Console(stderr=True) if display.stderr else get_console()
        return TerminalView(console, display.above)
    from dask_limits.display.plain_lines import PlainLines

    return PlainLines(file)


def _is_terminal(file: TextIO | None) -> bool:
    """Whether a file is a terminal that can move its cursor."""
    try:
        is_one = file is not None and file.isatty()
    except ValueError:  # it is closed
        return False
    return is_one and os.environ.get("TERM") not in ("dumb", "unknown")
