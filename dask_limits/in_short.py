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
_QUICK_S: Final = 0.001
_MOST_TIMES: Final = 10
"""Where all calls are asked, and not those alone that a person looks at, what takes longer than
this is not asked again either, once it has done so this much oftener than not. Anything may do so
now and then, on a busy machine.
"""
_MOST_TYPES: Final = 100
_SMALL, _FEW, _FEW_DIGITS = 10**30, 30, 8

_slow: dict[type, tuple[int, float]] = {}
"""How much oftener than not each took long, and the seconds of the longest time."""


def arguments_in_short(
    args: Sequence[Any], kwargs: Mapping[str, Any], *, quick: bool = False
) -> str:
    """The arguments of a call, in one line that can be printed.

    Each `__repr__` is called once at most. What raises, or has taken long before, is shown as its
    type; what has a shape, such as an array, by that. If it is to be `quick`, long is 1 ms, ten
    times, and not 0.1 s.

    Example:
        >>> arguments_in_short([10, "text", list(range(100))], {"depth": 3})
        "10, 'text', [0, 1, 2, 3, ...], depth=3"
    """
    short = _QUICK if quick else _SHORT
    texts: list[str] = []
    length = 0
    for value in args:
        if length >= MOST:
            break
        texts.append(_of(value, short))
        length += len(texts[-1]) + 2
    for name, value in kwargs.items():
        if length >= MOST:
            break
        texts.append(f"{printable(name)}={_of(value, short)}")
        length += len(texts[-1]) + 2
    if len(texts) < len(args) + len(kwargs):
        texts.append("...")
    text = texts[0] if len(texts) == 1 else ", ".join(texts)
    return cut(text, MOST)


def with_arguments(line: str, name: str, arguments: str) -> str:
    """A line about a call of a function, with its arguments.

    Example:
        >>> with_arguments("fit() went over its memory limit", "fit", "10, depth=3")
        'fit(10, depth=3) went over its memory limit'
    """
    return line.replace(f"{name}()", f"{name}({arguments})", 1)


def cut(text: str, length: int) -> str:
    """A text of so many characters at most.

    Example:
        >>> cut("abcdefgh", 6), cut("abcdef", 6)
        ('abc...', 'abcdef')
    """
    return text if len(text) <= length else f"{text[: max(length - 3, 0)]}..."[:length]


def _of(value: object, short: _Short) -> str:
    kind = type(value)
    if kind is int and -_SMALL < value < _SMALL:  # type: ignore[operator]
        return repr(value)  # as the rest would do, which takes longer
    if kind is str and len(value) < _FEW and value.isprintable():  # type: ignore
        return repr(value)
    if kind is float:
        text = repr(value)
        return text if len(text) < _FEW_DIGITS else min(text, f"{value:.6g}", key=len)
    try:
        return printable(short.repr1(value, 2))
    except KeyboardInterrupt:
        raise
    except BaseException:  # SystemExit, a panic of an extension
        return f"<{printable(type_name(value))}>"


def _note(kind: type, seconds: float) -> None:
    """Note how long an object of this type has taken."""
    times, longest = _slow.get(kind, (0, 0.0))
    if seconds > _QUICK_S and (times or len(_slow) < _MOST_TYPES):
        _slow[kind] = times + 1, max(seconds, longest)
    elif times:
        _slow[kind] = times - 1, longest


class _Short(reprlib.Repr):
    """Goes by the `__repr__` of a type and not by its name, which that of others may be too."""

    def __init__(self, quick: bool) -> None:
        super().__init__()
        self._quick = quick
        self.maxstring = self.maxother = self.maxlong = 40
        self.maxlist = self.maxtuple = self.maxset = self.maxdict = 4

    def repr1(self, x: Any, level: int) -> str:
        form = _FORMS.get(type(x).__repr__)
        return self.repr_instance(x, level) if form is None else form(self, x, level)

    def repr_instance(self, x: Any, level: int) -> str:
        kind = type(x)
        if kind in _slow and self._is_slow(*_slow[kind]):
            return f"<{kind.__name__}>"
        began = time.perf_counter()
        try:
            shape = getattr(x, "shape", None)
            if isinstance(shape, tuple) and shape:
                return f"<{kind.__name__} {'x'.join(map(str, shape))}>"
            return cut(str.__str__(repr(x)), self.maxother)  # of a subclass, the text itself
        finally:
            seconds = time.perf_counter() - began
            if seconds > _QUICK_S or kind in _slow:
                _note(kind, seconds)

    def _is_slow(self, times: int, longest: float) -> bool:
        return longest > _SLOW_S or (self._quick and times >= _MOST_TIMES)

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
_SHORT, _QUICK = _Short(quick=False), _Short(quick=True)
