"""Elements of HTML for the outputs of notebook cells: tables, bars, parts that fold.

There is no script, and nothing is loaded. What a page does not let through, such as the style
sheet in a notebook on GitHub, is not needed to read the rest.

Text is escaped wherever it is put into an element: only what these functions return is markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from dask_limits.html.style import STYLE
from dask_limits.printable import printable

_NEAR: Final = 0.8
"""The share of a limit from which a bar warns."""


class Html(str):
    """Markup. Any other text is escaped before it gets into some."""

    __slots__ = ()


def element(tag: str, *content: object, **attributes: str) -> Html:
    """An element. The names of attributes may end with `_`, as `class_` does.

    Example:
        >>> print(element("b", "1 < 2", element("br"), class_="x"))
        <b class="x">1 &lt; 2<br></br></b>
    """
    given = "".join(
        f' {name.rstrip("_")}="{escape(printable(value))}"' for name, value in attributes.items()
    )
    return Html(f"<{tag}{given}>{joined(*content)}</{tag}>")


def joined(*content: object) -> Html:
    """Markup, and text, one after the other."""
    return Html("".join(part if isinstance(part, Html) else _text(part) for part in content))


def _text(thing: object) -> str:
    """Text as it is: what would be markup, or would control a terminal, is shown."""
    return "\n".join(escape(printable(line)) for line in str(thing).split("\n"))


def view(*content: object) -> Html:
    """All that a cell shows of an object."""
    style = Html(f"<style>{STYLE}</style>")  # on top: a view that is cut has it too
    return element("div", style, *content, class_="dask-limits dl-view")


def heading(*content: object) -> Html:
    """What it is that is shown."""
    return element("div", *content, class_="dl-title")


def table(rows: Iterable[Sequence[object]], head: Sequence[object] = ()) -> Html:
    """A table; the first cell of a row says what the row is."""
    lines = [
        element("tr", element("th", first), *(element("td", cell) for cell in rest))
        for first, *rest in rows
    ]
    if not lines:
        return Html()
    names = [element("th", name) for name in head]
    top = [element("thead", element("tr", *names))] if names else []
    body = element("tbody", *lines)
    return element("div", element("table", *top, body), class_="dl-scrolls")


def bar(text: object, share: float) -> Html:
    """An amount, above a bar that is filled as far as it has used up its limit.

    Args:
        text: The amount and its limit.
        share: The amount by the limit, 0 or more; more than 1 is a full bar.
    """
    return _bar(text, share, "over" if share >= 1 else "near" if share >= _NEAR else "fine")


def progress(text: object, share: float) -> Html:
    """How much is done, above a bar: the share is from 0 to 1."""
    return element("div", _bar(text, share, "fine"), class_="dl-progress")


def _bar(text: object, share: float, kind: str) -> Html:
    filled = min(max(share, 0.0), 1.0)
    fill = element("div", class_=f"dl-fill dl-{kind}", style=f"width:{filled:.0%}")
    return joined(text, element("div", fill, class_="dl-bar"))


def badge(text: object, kind: str) -> Html:
    """A word that stands out: `kind` is "good", "bad" or "plain"."""
    return element("span", text, class_=f"dl-badge dl-{kind}")


def folded(title: object, *content: object, is_open: bool = False) -> Html:
    """What is shown when its title is clicked at; at once if it is open."""
    attributes = {"open": "open"} if is_open else {}
    return element("details", element("summary", title), *content, **attributes)


def code(text: object) -> Html:
    """A name or an expression."""
    return element("code", text)


def block(text: object) -> Html:
    """Lines that are shown as they are, such as a stack."""
    return element("pre", text)


def note(*content: object) -> Html:
    """What is of less weight."""
    return element("div", *content, class_="dl-note")
