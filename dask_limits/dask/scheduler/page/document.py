"""The page "Limits" as a document of bokeh, which is made anew for each who opens it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from bokeh.core.properties import without_property_validation
from bokeh.layouts import column, row
from bokeh.models import (
    ColumnDataSource,
    CustomJS,
    DataTable,
    Div,
    HTMLTemplateFormatter,
    TableColumn,
    TextInput,
)
from bokeh.plotting import figure

from dask_limits.dask.ended import Failure
from dask_limits.dask.scheduler.page import columns, html
from dask_limits.dask.scheduler.page.columns import ENDINGS, Columns
from dask_limits.dask.scheduler.page.watch import Shown, Watch

_EVERY_MS: Final = 1000
_ROW_PX: Final = 25
_MOST_ROWS: Final = 14
"""Rows of a table that are seen at a time; for the others it is scrolled."""
_STYLES: Final = """
.bk-data-table { z-index: 0; }
.slick-cell { padding: 1px 4px; }
.limits-bar { position: relative; height: 19px; border-radius: 2px; }
.limits-bar.limited { background: #e6e6e6; }
.limits-bar > div { height: 100%; border-radius: 2px; }
.limits-bar > span { position: absolute; left: 5px; top: 0; line-height: 19px; }
"""
# <%- escapes. What is without it are numbers, and names of columns.
_TEXT: Final = '<span title="<%- {title} %>"><%- value %></span>'
_COUNT: Final = "<%- value %>"
_AMOUNT: Final = "<%- {field}_text %>"
_ROOM: Final = """
<div class="limits-bar <%= {field}_share < 0 ? '' : 'limited' %>" title="<%- {field}_text %>">
<div style="width: <%= Math.max(0, Math.min({field}_share, 1)) * 100 %>%; background:
#9ec5e8"></div>
<span><%- {field}_text %></span></div>"""
_NEAR: Final = """
<%= {field}_share > 0.9 ? '#f2a093' : {field}_share > 0.7 ? '#f5cf8a' : '#9ec5e8' %>"""
_BAR: Final = _ROOM.replace("#9ec5e8", _NEAR)
"""As the one above, which a worker may well fill; this one warns of a limit that is near."""


def _are_numbers(values: Sequence[object]) -> bool:
    return bool(values) and isinstance(values[0], int | float)


class _Table:
    """A table with a heading. Each column has a field, a title, a width and a template."""

    def __init__(self, columns: Sequence[tuple[str, str, int, str]], empty: Columns) -> None:
        self._source = ColumnDataSource(empty)
        self._columns = empty
        self.heading = _div("")
        self.table = DataTable(
            source=self._source,
            columns=[
                TableColumn(
                    field=field, title=title, width=width, formatter=_formatter(template, field)
                )
                for field, title, width, template in columns
            ],
            index_position=None,
            row_height=_ROW_PX,
            height=2 * _ROW_PX,
            autosize_mode="none",
            reorderable=False,  # that takes jQuery UI, which bokeh warns not to have
            sizing_mode="stretch_width",
            stylesheets=[_STYLES],
        )
        # Without this, bokeh 3.9 shows new data only if the number of rows has changed.
        refresh = CustomJS(args={"view": self.table.view}, code="view.change.emit()")
        self._source.js_on_change("data", refresh)

    def show(self, columns: Columns, title: str, text: str) -> None:
        """Show these columns."""
        _say(self.heading, html.heading(title, text))
        if columns == self._columns:
            return
        self._columns = columns
        # Numbers as an array are packed a hundred times faster than one by one.
        self._source.data = {
            name: np.asarray(values, float) if _are_numbers(values) else values
            for name, values in columns.items()
        }
        n_rows = len(next(iter(columns.values()), ()))
        height = (min(max(n_rows, 1), _MOST_ROWS) + 1) * _ROW_PX + 18  # a bar to scroll by
        if self.table.height != height:
            self.table.height = height


def _formatter(template: str, field: str) -> HTMLTemplateFormatter:
    return HTMLTemplateFormatter(template=template.format(field=field, title="value"))


def _div(text: str) -> Div:
    """Some HTML. Without `disable_math`, bokeh would load MathJax from the network for a `$$`."""
    return Div(text=text, disable_math=True, sizing_mode="stretch_width")


def _say(div: Div, text: str) -> None:
    if div.text != text:
        div.text = text


class LimitsPage:
    """What one who looks sees of a cluster."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        shown = self._shown = watch.latest()
        self._search = TextInput(placeholder="Search: function, worker or text", width=300)
        self._search.on_change("value_input", self._searched)
        amounts = [("memory", "memory"), ("wall_time", "wall time"), ("cpu_time", "CPU time")]
        self._running = _Table(
            [
                ("worker", "worker", 100, _TEXT),
                ("function", "function", 230, _TEXT.replace("{title}", "key")),
                *((field, title, 240, _BAR) for field, title in amounts),
                ("num_processes", "processes", 100, _BAR),
            ],
            columns.of_running([]),
        )
        self._workers = _Table(
            [
                ("worker", "worker", 80, _TEXT.replace("{title}", "address")),
                ("memory", "reserved memory", 170, _ROOM),
                ("cores", "reserved cores", 100, _ROOM),
                ("running", "calls", 40, _TEXT),
                ("job", "batch job", 70, _TEXT),
                ("state", "state", 110, _TEXT),
            ],
            columns.of_workers([], {}),
        )
        figures = [
            entry
            for field, title in amounts
            for entry in (
                (f"{field}_median", f"{title}: 50 %", 105, _AMOUNT),
                (f"{field}_most", "95 %", 65, _AMOUNT),
                (field, "maximum", 145, _BAR),
            )
        ]
        self._functions = _Table(
            [
                ("function", "function", 130, _TEXT),
                ("waiting", "waiting", 55, _COUNT),
                ("running", "running", 55, _COUNT),
                ("ended", "ended", 110, _ROOM),
                ("endings", "endings", 130, _TEXT),
                *figures,
            ],
            {},
        )
        self._slots = ColumnDataSource(shown.slots)
        self._slots_shown = shown.slots
        self._legend = _div("")
        self._failures_heading = _div("")
        self._failures = column(sizing_mode="stretch_width")
        self._seen: tuple[Failure, ...] = ()
        self.root = self._root()
        self._show(shown)

    def _root(self) -> Any:
        plot = figure(
            height=220,
            tools="",
            toolbar_location=None,
            sizing_mode="stretch_width",
            x_axis_label="minutes",
            y_axis_label="calls",
        )
        plot.vbar_stack(
            [*ENDINGS],
            x="middle",
            width="width",
            fill_color=[*ENDINGS.values()],
            line_color=None,
            source=self._slots,
        )
        plot.x_range.end = 0
        plot.x_range.range_padding = 0
        plot.y_range.start = 0
        plot.yaxis.minor_tick_line_color = None
        plot.xgrid.visible = False
        half: Any = {"sizing_mode": "stretch_width", "min_width": 420}  # if narrower, one below
        workers = column(self._workers.heading, self._workers.table, **half)
        endings = column(self._legend, plot, **half)
        return column(
            self._search,
            self._running.heading,
            self._running.table,
            row(workers, endings, sizing_mode="stretch_width", styles={"flex-wrap": "wrap"}),
            self._functions.heading,
            self._functions.table,
            self._failures_heading,
            self._failures,
            sizing_mode="stretch_width",
        )

    @without_property_validation  # type: ignore[untyped-decorator]
    def update(self) -> None:
        """Show what has changed."""
        if (shown := self._watch.latest()) is not self._shown:
            self._shown = shown
            self._show(shown)

    def _show(self, shown: Shown) -> None:
        wanted = self._search.value_input.strip()
        calls = columns.matching(shown.calls, wanted) if wanted else shown.calls
        running = columns.of_running(calls)
        text = f"{len(shown.calls):,} running, {shown.n_waiting:,} tasks waiting for room."
        text += _found(wanted, len(calls), len(running["worker"]), "nearest to a limit")
        self._running.show(running, "Running calls, and their limits", text)
        workers = columns.of_workers(shown.workers, shown.n_on)
        text = "What running calls have reserved, of what there is."
        text += _found("", len(shown.workers), len(workers["worker"]), "with the most reserved")
        self._workers.show(workers, "Workers", text)
        _say(self._legend, html.legend("Endings", shown.endings))
        if self._slots_shown is not shown.slots:
            self._slots_shown = shown.slots
            self._slots.data = {
                name: np.asarray(values, float) for name, values in shown.slots.items()
            }
        text = "What calls have used that have ended. The maximum is that nearest to its limit."
        self._functions.show(shown.functions, "Functions", text)
        self._show_failures(tuple(one for one in shown.failures if html.is_in(wanted, one)), wanted)

    def _searched(self, attribute: str, old: str, new: str) -> None:
        """Show what somebody searches for."""
        self._show(self._shown)

    def _show_failures(self, failures: tuple[Failure, ...], wanted: str) -> None:
        text = "" if failures else "None is found." if wanted else "There was none yet."
        _say(self._failures_heading, html.heading("Last breaches, crashes and other losses", text))
        if failures == self._seen:
            return
        # Those that are there stay what they are: their stacks may have been unfolded.
        there = dict(zip(reversed(self._seen), self._failures.children, strict=True))
        self._seen = failures
        self._failures.children = [
            there.get(one) or _div(html.of_failure(one)) for one in reversed(failures)
        ]


def _found(wanted: str, n: int, n_shown: int, which: str) -> str:
    """What to say of rows that are not shown, or were searched for."""
    text = f" {n:,} found." if wanted else ""
    return text + (f" Here are the {n_shown} {which}, and {n - n_shown:,} more." * (n_shown < n))


def fill(document: Any, watch: Watch) -> None:
    """Put the page into a document of bokeh, and keep it up to date as long as that is open."""
    page = LimitsPage(watch)
    document.title = "Dask: Limits"
    document.add_root(page.root)
    document.add_periodic_callback(page.update, _EVERY_MS)
