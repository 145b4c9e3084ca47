"""An extension of griffe, which reads docstrings for the reference."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
LITERAL = re.compile(r"::$", re.MULTILINE)


class OurDocstrings(griffe.Extension):
    """Has docstrings read as Markdown: ours have one example, and mark literal text by `::`."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of each module, class, function and attribute."""
        if obj.docstring is not None:
            text = EXAMPLE.sub("Examples:", obj.docstring.value)
            obj.docstring.value = LITERAL.sub(":", text)
