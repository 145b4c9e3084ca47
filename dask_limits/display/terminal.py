"""A run on a terminal: one screen, drawn anew while the run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import ceil
from typing import Final, Self

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment

from dask_limits.display.run_view import EndedRow, RunView
from dask_limits.display.screen import ASCII, LINES, Line, draw

_LEAST_S: Final = 0.5
"""Between two redraws. Figures of running calls are not newer than that anyway."""
_SHARE: Final = 0.01
"""The share of a core that redraws may take: the next one comes the later, the longer one took."""
_TYPED: Final[Line] = []
"""A line for what is typed meanwhile, such as the "^C" that the terminal writes at the cursor. At
the end of a full line that would begin another one, which nobody erases."""


class TerminalView(ConsoleRenderable):
    """Shows a run below what is printed meanwhile; the last state stays there.

    Args:
        console: The terminal.
        above: What to show above the run, at most half as high as the terminal.
    """

    def __init__(self, console: Console, above: RenderableType | None = None) -> None:
        self._console = console
        self._above = above
        self._lines: list[Line] = []
        self._width = 0
        self._bars = LINES if console.encoding.startswith("utf") else ASCII
        self._live = Live(
            console=console,
            get_renderable=lambda: self,
            auto_refresh=False,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def ended(self, ending: str, row: Callable[[], EndedRow]) -> None:
        """Nothing: the next moment counts it."""

    def show(self, moment: Callable[[int], RunView]) -> float:
        """Draw a moment."""
        began = time.thread_time()
        self._draw(moment(self._console.height), [_TYPED])
        return max(_LEAST_S, (time.thread_time() - began) / _SHARE)

    def end(self, last: RunView) -> None:
        """Draw the last moment."""
        self._draw(last, [])

    def _draw(self, view: RunView, below: list[Line]) -> None:
        width, height = self._console.size
        height -= 1  # the last state and the prompt after it are on one screen
        above = self._drawn_above(height // 2)
        lines = above + draw(view, width, height - len(above), self._bars)
        if width < self._width:
            self._erase_reflowed(width)
        self._lines, self._width = lines + below, width
        self._live.refresh()

    def _drawn_above(self, most: int) -> list[Line]:
        if self._above is None:
            return []
        return self._console.render_lines(self._above, pad=False)[:most]

    def _erase_reflowed(self, width: int) -> None:
        """Erase what the last lines take besides theirs, now that a narrower terminal wraps them.

        rich goes back as many lines as it has written.
        """
        lengths = (sum(cell_len(part.text) for part in line) for line in self._lines)
        n = sum(max(ceil(length / width), 1) - 1 for length in lengths)
        for _ in range(n):
            erase = (ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)
            self._console.control(Control(*erase))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines that were drawn last: rich asks for them at each print, too."""
        for line in self._lines[: options.size.height]:
            yield from line
            yield Segment.line()
