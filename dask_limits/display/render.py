"""How a scheduler, its tasks and their plugins look on a terminal and in a notebook.

rich is imported only when something is rendered. Text from users (names, signatures, options) is
put into `Text`, which does not interpret markup.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from dask_limits.display.text import readable, signature

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.panel import Panel
    from rich.tree import Tree


class EventView(Protocol):
    """What is displayed of an event."""

    count: int

    @property
    def event(self) -> str: ...  # noqa: D102
    @property
    def callbacks(self) -> list[tuple[Callable[..., object], int]]: ...  # noqa: D102


class Renderable:
    """Gives a class with a `__rich__` the same look in notebooks."""

    def __rich__(self) -> RenderableType:
        raise NotImplementedError

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        from rich.console import Console

        # Without force_jupyter=False, it would be displayed twice in a notebook.
        console = Console(record=True, file=io.StringIO(), width=100, force_jupyter=False)
        console.print(self)
        html = console.export_html(
            inline_styles=True, clear=False, code_format='<pre style="line-height:1.2">{code}</pre>'
        )
        return {"text/plain": console.export_text(), "text/html": html}


def plugin_panel(name: str, rows: Iterable[str] = ()) -> Panel:
    """A plugin: its name, and its properties, one a line."""
    from rich.panel import Panel
    from rich.text import Text

    return Panel(Text("\n".join(rows)), title=Text(f"Plugin {name}"), border_style="cyan")


def task_panel(
    function: Callable[..., object],
    ref: str,
    plugins: Iterable[RenderableType],
    events: Iterable[EventView],
) -> Panel:
    """A task: its function, its plugins, and its events that were emitted or have callbacks."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    seen = [event for event in events if event.count or event.callbacks]
    return Panel(
        Group(*plugins, *map(_event, seen)),
        title=Text(f"Task {signature(function)}"),
        subtitle=Text(f"Ref: {ref}"),
        border_style="magenta",
    )


def scheduler_tree(
    executor: str,
    options: Mapping[str, object],
    n_queued: int,
    cluster: Iterable[str],
    events: Iterable[EventView],
    tasks: Iterable[RenderableType],
) -> Tree:
    """A scheduler: its executor, its queue, its cluster, its events and its tasks."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text
    from rich.tree import Tree

    about = [repr(dict(options))] if options else []
    box = Panel.fit(Text(readable("\n".join([*about, *cluster]))), title=Text(executor))
    top = Panel(Group(Text(f"Executor Queue: ({n_queued})"), box), title=Text("Scheduler"))
    tree = Tree(top, guide_style="bold")
    tree.add(Group(*map(_event, events)))
    for task in tasks:
        tree.add(task)
    return tree


def _event(view: EventView) -> RenderableType:
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(_counted(Text(f"@{view.event}", "bold" if view.count else "dim"), view.count))
    for function, n_answered in view.callbacks:
        line = Text.assemble(("def ", "cyan"), signature(function))
        tree.add(line.append(f" ({n_answered})", "yellow") if n_answered else line)
    return tree


def _counted(line: Any, count: int) -> Any:
    return line.append(f" {count}", "yellow") if count else line
