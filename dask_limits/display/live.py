from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import RenderableType

REDRAW_EVERY_S: Final = 0.125
"""The seconds between redraws of a live view. Each takes the run loop some milliseconds."""


@contextmanager
def live(thing: RenderableType) -> Iterator[Callable[[], None]]:
    """Show something on the terminal while it changes.

    What this yields redraws it if it is time. Call it often, in the thread that makes the changes.
    """
    from rich.live import Live

    with Live(get_renderable=lambda: thing, auto_refresh=False) as view:
        due = 0.0

        def redraw() -> None:
            nonlocal due
            if time.monotonic() >= due:
                view.refresh()
                due = time.monotonic() + REDRAW_EVERY_S

        redraw()
        yield redraw
        view.refresh()
