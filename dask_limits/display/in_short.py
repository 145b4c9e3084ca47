"""The arguments of a call in short."""

from __future__ import annotations

import reprlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from dask_limits.printable import printable, type_name

MOST: Final = 120
"""Characters of the arguments of a call: as many as a wide terminal has room for."""
_SLOW_S: Final = 0.1
"""What takes longer to say what it is, is not asked again. The thread of the run waits for it."""
_MOST_TYPES: Final = 100

_slow: set[type] = set()


def arguments_in_short(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The arguments of a call, in one line that can be printed.

    Each `__repr__` is called once at most. What raises, or has taken long before, is shown as its
    type; what has a shape, such as an array, by that.

    Example:
        >>> arguments_in_short([10, "text", list(range(100))], {"depth": 3})
        "10, 'text', [0, 1, 2, 3, ...], depth=3"
    """
    texts: list[str] = []
    length = 0
    for name, value in (*(("", value) for value in args), *kwargs.items()):
        if length >= MOST:
            texts.append("...")
            break
        texts.append(f"{printable(name)}={_of(value)}" if name else _of(value))
        length += len(texts[-1]) + 2
    return cut(", ".join(texts), MOST)


def cut(text: str, length: int) -> str:
    """A text of so many characters at most.

    Example:
        >>> cut("abcdefgh", 6), cut("abcdef", 6)
        ('abc...', 'abcdef')
    """
    return text if len(text) <= length else f"{text[: max(length - 3, 0)]}..."[:length]


def _of(value: object) -> str:
    try:
        return printable(_Short().repr1(value, 2))
    except KeyboardInterrupt:
        raise
    except BaseException:  # SystemExit, a panic of an extension
        return f"<{printable(type_name(value))}>"


class _Short(reprlib.Repr):
    """Goes by the `__repr__` of a type and not by its name, which that of others may be too."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 40
        self.maxlist = self.maxtuple = self.maxset = self.maxdict = 4

    def repr1(self, x: Any, level: int) -> str:
        form = _FORMS.get(type(x).__repr__)
        return self.repr_instance(x, level) if form is None else form(self, x, level)

    def repr_instance(self, x: Any, level: int) -> str:
        kind = type(x)
        if kind in _slow:
            return f"<{kind.__name__}>"
        began = time.perf_counter()
        try:
            shape = getattr(x, "shape", None)
            if isinstance(shape, tuple) and shape:
                return f"<{kind.__name__} {'x'.join(map(str, shape))}>"
            return cut(str.__str__(repr(x)), self.maxother)  # of a subclass, the text itself
        finally:
            if time.perf_counter() - began > _SLOW_S and len(_slow) < _MOST_TYPES:
                _slow.add(kind)

    # The base class sorts all that is in these, and has nothing for bytes and floats.

    def repr_float(self, x: float, level: int) -> str:
        return min(repr(x), f"{x:.6g}", key=len)

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        items = (f"{self.repr1(k, level - 1)}: {self.repr1(v, level - 1)}" for k, v in x.items())
        return f"{{{self._some(items, len(x), level)}}}"

    def repr_set(self, x: set[Any] | frozenset[Any], level: int) -> str:
        items = (self.repr1(item, level - 1) for item in x)
        return f"{{{self._some(items, len(x), level)}}}" if x else f"{type(x).__name__}()"

    def repr_bytes(self, x: bytes | bytearray, level: int) -> str:
        return cut(repr(x[: self.maxstring]), self.maxstring)

    def _some(self, items: Iterable[str], n: int, level: int) -> str:
        if level <= 0:
            return "..." if n else ""
        return ", ".join(islice(items, self.maxdict)) + (", ..." if n > self.maxdict else "")


_FORMS: Final[dict[object, Callable[[_Short, Any, int], str]]] = {
    str.__repr__: _Short.repr_str,
    int.__repr__: _Short.repr_int,
    float.__repr__: _Short.repr_float,
    list.__repr__: _Short.repr_list,
    tuple.__repr__: _Short.repr_tuple,
    dict.__repr__: _Short.repr_dict,
    set.__repr__: _Short.repr_set,
    frozenset.__repr__: _Short.repr_set,
    bytes.__repr__: _Short.repr_bytes,
    bytearray.__repr__: _Short.repr_bytes,
}
