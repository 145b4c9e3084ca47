from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import RenderableType

REDRAW_EVERY_S: Final = 0.125
"""How often a live view is drawn anew. One drawing costs some milliseconds of the run loop."""


@contextmanager
def live(thing: RenderableType) -> Iterator[Callable[[], None]]:
    """Show something for as long as it changes.

    Yields:
        What redraws it, if the last time was long enough ago: to be called often, and from the
        thread that changes it.
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
