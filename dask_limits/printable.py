"""Text that others have chosen, such as names of functions and of errors, made safe to print."""

from __future__ import annotations

from typing import Final

_name_of_type: Final = type.__dict__["__name__"].__get__


def printable(text: str) -> str:
    r"""The text with what is not printable escaped: it cannot control a terminal or break a line.

    Example:
        >>> print(printable("fit\x1b[2J"))
        fit\x1b[2J
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def repr_of(thing: object) -> str:
    """The representation of an object, or its type if the class cannot make one."""
    try:
        return repr(thing)
    except Exception:
        return f"<{type_name(thing)}>"


def type_name(thing: object) -> str:
    """The name of the type of an object, whatever its metaclass says of it."""
    return str(_name_of_type(type(thing)))
