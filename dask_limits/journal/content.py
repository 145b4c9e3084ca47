"""A hash of what a value is made of, the same in every process.

A pickle is not: it depends on which of its strings are one object, and on the order of sets. So
this takes a value apart as pickle does, by its `__reduce_ex__`, and goes by the names of classes
and by what their objects hold.
"""

from __future__ import annotations

import copyreg
import pickle
import types
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, Final

from dask_limits.journal.code import version_of

_ATOMS: Final = frozenset({type(None), bool, float, complex, str, type(...), type(NotImplemented)})
"""Types whose `repr` tells all there is, in every process."""
_SIZE: Final = 16


def digest_of(value: object) -> bytes:
    """A hash of a value, of 16 bytes.

    Raises:
        TypeError: if it cannot be taken apart, as what cannot be pickled.
    """
    content = _Content({})
    content.add(value)
    return content.digest()


class _Content:
    """What has been added, as a hash. `inside` has the objects that are being taken apart."""

    def __init__(self, inside: dict[int, int]) -> None:
        self._hash = blake2b(digest_size=_SIZE)
        self._inside = inside

    def digest(self) -> bytes:
        return self._hash.digest()

    def add(self, value: Any) -> None:
        kind = type(value)
        if kind is int:
            self._text(f"int {value:x}")  # repr() refuses thousands of digits
        elif kind in _ATOMS:
            self._text(repr(value))
        elif kind is bytes or kind is bytearray:
            self._data(kind.__name__, value)
        elif kind is pickle.PickleBuffer:
            self._data("buffer", value.raw())
        elif id(value) in self._inside:
            self._text(f"the one {self._inside[id(value)]} around")
        else:
            self._inside[id(value)] = len(self._inside)
            try:
                self._take_apart(kind, value)
            finally:
                del self._inside[id(value)]

    def _text(self, text: str) -> None:
        self._data("text", text.encode(errors="surrogatepass"))

    def _data(self, kind: str, data: Any) -> None:
        self._hash.update(f"{kind} {len(data)} ".encode())
        self._hash.update(data)

    def _take_apart(self, kind: type, value: Any) -> None:
        if kind is list or kind is tuple:
            self._all(kind.__name__, value)
        elif kind is set or kind is frozenset:
            self._all(kind.__name__, sorted(map(self._digest_inside, value)))
        elif kind is dict:
            items = sorted((self._digest_inside(name), value[name]) for name in value)
            self._all("dict", (part for item in items for part in item))
        elif kind is types.FunctionType:
            cells = [content_of(cell) for cell in value.__closure__ or ()]
            parts = value.__qualname__, version_of(value.__code__, value.__doc__), cells
            self._all("function", (*parts, value.__defaults__, value.__kwdefaults__))
        elif isinstance(value, type | types.ModuleType):
            name = getattr(value, "__qualname__", value.__name__)
            self._text(f"{getattr(value, '__module__', '')}.{name}")
        elif (own := getattr(kind, "__dask_tokenize__", None)) is not None:
            self._all(kind.__qualname__, [own(value)])
        else:
            self._reduced(kind, value)

    def _reduced(self, kind: type, value: Any) -> None:
        reduce = copyreg.dispatch_table.get(kind)
        how = value.__reduce_ex__(5) if reduce is None else reduce(value)
        if isinstance(how, str):  # the name of a global
            self._text(f"{kind.__module__}.{how}")
            return
        parts = [
            list(part) if n in (3, 4) and part is not None else part for n, part in enumerate(how)
        ]
        self._all("reduced", parts)

    def _all(self, kind: str, parts: Iterable[Any]) -> None:
        self._text(f"{kind} of")
        for part in parts:
            self.add(part)
        self._text("end")

    def _digest_inside(self, value: Any) -> bytes:
        content = _Content(self._inside)
        content.add(value)
        return content.digest()


def content_of(cell: types.CellType) -> Any:
    """What is in a cell of a closure; None if it has nothing yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None
