from __future__ import annotations

import re

import pytest
from html_pages import Page
from hypothesis import given
from hypothesis import strategies as st

from dask_limits.html import elements
from dask_limits.html.style import STYLE
from dask_limits.printable import printable

MAKERS = {
    "element": lambda text: elements.element("p", text),
    "attribute": lambda text: elements.element("p", title=text),
    "table": lambda text: elements.table([(text, text)], (text, text)),
    "bar": lambda text: elements.bar(text, 0.5),
    "badge": lambda text: elements.badge(text, "bad"),
    "folded": lambda text: elements.folded(text, text),
    "code": elements.code,
    "block": elements.block,
    "note": elements.note,
    "heading": elements.heading,
    "view": elements.view,
    "joined": elements.joined,
}
EVIL = ["<script>alert(1)</script>", "</td>", "\"'>", "&lt;", "]]>", "<!--", "</style>"]


@pytest.mark.parametrize("kind", MAKERS)
@given(text=st.text() | st.sampled_from(EVIL))
def test_any_text_is_shown_as_it_is_and_is_never_markup(kind, text):
    harmless, page = Page(MAKERS[kind]("x")), Page(MAKERS[kind](text))
    shown = "\n".join(printable(line) for line in text.split("\n"))
    assert page.tags == harmless.tags
    assert page.is_whole
    assert page.text == harmless.text.replace("x", shown)
    assert [name for name, _ in page.attributes] == [name for name, _ in harmless.attributes]
    if kind == "attribute":
        assert page.attributes == [("title", printable(text))]


def test_what_is_put_together_is_escaped_once():
    inner = elements.code("a < b")
    assert elements.element("p", "1 & ", inner) == "<p>1 &amp; <code>a &lt; b</code></p>"


@pytest.mark.parametrize(
    ("share", "width", "kind"),
    [(0.0, "0%", "fine"), (0.5, "50%", "fine"), (0.9, "90%", "near"), (7.0, "100%", "over")],
)
def test_a_bar_is_as_long_as_its_share_and_warns_near_the_limit(share, width, kind):
    page = Page(elements.bar("180 of 200", share))
    assert ("style", f"width:{width}") in page.attributes
    assert ("class", f"dl-fill dl-{kind}") in page.attributes
    assert page.text == "180 of 200"


def test_the_style_sheet_holds_in_our_views_alone_and_loads_nothing():
    selectors = [one for line in STYLE.split("\n") for one in line.partition("{")[0].split(",")]
    assert selectors and all(one.startswith(".dask-limits.dl-view") for one in selectors)
    assert not re.search(r"url|@|<|javascript|expression", STYLE)
