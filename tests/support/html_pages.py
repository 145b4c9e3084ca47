"""HTML as a browser takes it: which elements there are, and what can be read."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """A page.

    Attributes:
        tags: The names of its elements, in order.
        attributes: Their attributes, `(name, value)`.
        text: What can be read without a style sheet.
        is_whole: Whether each element that was opened is closed, in the right order.
    """

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.is_whole = True
        self._open: list[str] = []
        self.feed(markup)
        self.close()
        self.is_whole = self.is_whole and not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self._open.append(tag)

    def handle_endtag(self, tag):
        self.is_whole = self.is_whole and bool(self._open) and self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.text += data
