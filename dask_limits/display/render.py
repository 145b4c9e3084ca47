"""How a scheduler, its tasks and their plugins look on a terminal and in a notebook.

rich is imported only when something is rendered. All text goes through `_text`, as users have
chosen much of it: names, signatures, options.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from dask_limits.display.signatures import signature_of
from dask_limits.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType as RenderableType
    from rich.panel import Panel
    from rich.text import Text
    from rich.tree import Tree

    from dask_limits.events import Subscriber
    from dask_limits.html.elements import Html as Html


class Renderable:
    """Gives a class with a `__rich__` and an `__html__` its look in notebooks.

    Where a notebook cannot show the one, it shows the other as text.
    """

    def __rich__(self) -> RenderableType:
        raise NotImplementedError

    def __html__(self) -> Html:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        from dask_limits.html.elements import view

        return view(self.__html__())

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        from rich.console import Console

        # Without force_jupyter=False, it would be displayed twice in a notebook.
        console = Console(record=True, file=io.StringIO(), width=100, force_jupyter=False)
        console.print(self)
        return {"text/plain": console.export_text()}


def plugin_panel(name: str, rows: Iterable[str] = ()) -> Panel:
    """A plugin: its name, and its properties, one a line."""
    from rich.panel import Panel

    return Panel(_text(*rows), title=_text(f"Plugin {name}"), border_style="cyan")


def task_panel(
    function: Callable[..., object],
    ref: str,
    plugins: Iterable[RenderableType],
    events: Iterable[Subscriber[...]],
) -> Panel:
    """A task: its function, its plugins, and its events that were emitted or have callbacks."""
    from rich.console import Group
    from rich.panel import Panel

    seen = [event for event in events if event.count or event.callbacks]
    return Panel(
        Group(*plugins, *map(_event, seen)),
        title=_text(f"Task {signature_of(function)}"),
        subtitle=_text(f"Ref: {ref}"),
        border_style="magenta",
    )


def scheduler_tree(
    executor: str,
    options: Mapping[str, object],
    n_queued: int,
    cluster: Iterable[str],
    events: Iterable[Subscriber[...]],
    tasks: Iterable[RenderableType],
) -> Tree:
    """A scheduler: its executor, its queue, its cluster, its events and its tasks."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.tree import Tree

    about = [repr(dict(options))] if options else []
    box = Panel.fit(_text(*about, *cluster), title=_text(executor))
    top = Panel(Group(_text(f"Executor Queue: ({n_queued})"), box), title=_text("Scheduler"))
    tree = Tree(top, guide_style="bold")
    tree.add(Group(*map(_event, events)))
    for task in tasks:
        tree.add(task)
    return tree


def _event(subscriber: Subscriber[...]) -> RenderableType:
    from rich.tree import Tree

    n = subscriber.count
    title = _text(f"@{subscriber.event}", style="bold" if n else "dim")
    tree = Tree(title.append(f" {n}", "yellow") if n else title)
    for function, n_answered in subscriber.callbacks:
        line = _text(f"def {signature_of(function)}")
        line.stylize("cyan", 0, len("def "))
        tree.add(line.append(f" ({n_answered})", "yellow") if n_answered else line)
    return tree


def _text(*lines: str, style: str = "") -> Text:
    """Lines as they are: what looks like markup, or would control a terminal, is shown."""
    from rich.text import Text

    return Text("\n".join(map(printable, "\n".join(lines).split("\n"))), style)
