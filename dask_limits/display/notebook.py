"""A run in the output of a cell, which changes in place.

The kernel replaces what was displayed under an id, wherever that is shown; the notebook is saved
with the last state. Only the button needs ipywidgets, which bring clicks to the kernel.
"""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

from dask_limits.display.plain_lines import summary
from dask_limits.display.run_html import run_html
from dask_limits.display.run_view import EndedRow, RunView
from dask_limits.html.elements import view as cell

_EVERY_S: Final = 0.5
"""The seconds between updates. Each takes the kernel 3 ms, and sends the browser some 7 kB."""
_MOST_RUNNING: Final = 8


class NotebookView:
    """Shows a run in a cell.

    Args:
        stops: What each click on a button is to do, the second one only if the first did not end
            the run, by what the button says. There is no button if there is nothing to do, or no
            ipywidgets.
    """

    def __init__(self, stops: Mapping[str, Callable[[], object]]) -> None:
        self._output = _Output()
        self._stops = stops
        self._button: StopButton | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._button is not None:
            self._button.close()

    def ended(self, ending: str, row: Callable[[], EndedRow]) -> None:
        """A call has ended: it is among those of the next moment."""

    def show(self, moment: Callable[[int], RunView]) -> float:
        """Show how the run stands."""
        is_first = not self._output.is_shown
        self._show(moment(_MOST_RUNNING))
        if is_first and self._stops and (widgets := _ipywidgets()) is not None:
            self._button = StopButton(widgets, self._stops)
        return _EVERY_S

    def end(self, last: RunView) -> None:
        """Show how the run has ended."""
        self._show(last)

    def _show(self, moment: RunView) -> None:
        self._output.show_raw({"text/html": cell(run_html(moment)), "text/plain": summary(moment)})


class StopButton:
    """A button below the view of a run."""

    def __init__(self, widgets: Any, stops: Mapping[str, Callable[[], object]]) -> None:
        self._stops = iter(stops.items())
        self._stop: Callable[[], object] | None = None
        self._output = _Output()
        self._button = widgets.Button(icon="stop")
        self._button.on_click(self._clicked)
        self._next()
        self._output.show(self._button)

    def close(self) -> None:
        """Take it away, from the saved notebook too."""
        self._output.show_raw({"text/html": "", "text/plain": ""})
        self._button.close()

    def _next(self) -> None:
        text, self._stop = next(self._stops, ("Ending", None))
        self._button.description, self._button.disabled = text, self._stop is None

    def _clicked(self, _: object) -> None:
        if (stop := self._stop) is not None:
            self._next()
            stop()


class _Output:
    """What a cell shows, and can show something else in place of."""

    def __init__(self) -> None:
        self.is_shown = False
        self._id = secrets.token_hex(16)

    def show_raw(self, data: dict[str, str]) -> None:
        """Show what is given in each form, by MIME types."""
        self.show(data, raw=True)

    def show(self, thing: object, *, raw: bool = False) -> None:
        display: Any = importlib.import_module("IPython.display").display
        display(thing, raw=raw, display_id=self._id, update=self.is_shown)
        self.is_shown = True


def _ipywidgets() -> Any:
    try:
        return importlib.import_module("ipywidgets")
    except ImportError:
        return None
