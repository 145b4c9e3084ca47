"""Versions of code."""

from __future__ import annotations

import dis
import sys
import types
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
"""Whose compiler has made the code: another one makes another code of the same source."""


@lru_cache(maxsize=1000)
def version_of(code: types.CodeType, doc: str | None) -> str:
    """A hash of the code of a function, without its comments, docstring, names of files and lines.

    It is that of this version of Python: another one compiles the same source to other code.
    """
    digest = blake2b(digest_size=4)
    for part in _parts(code, doc):
        digest.update(part.encode(errors="surrogatepass") + b"\0")
    return digest.hexdigest()


def _parts(code: types.CodeType, doc: str | None) -> Iterable[str]:
    yield code.co_name
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_argcount))
    yield repr((code.co_posonlyargcount, code.co_kwonlyargcount))
    for constant in _constants(code, doc):
        if isinstance(constant, types.CodeType):
            yield from _parts(constant, None)
        elif isinstance(constant, frozenset):
            yield repr(sorted(map(repr, constant)))  # its order changes with each process
        else:
            yield repr(constant)


def _constants(code: types.CodeType, doc: str | None) -> Sequence[object]:
    """All but the docstring, or the None in its place: the first one, unless the code loads it.

    So does that of a function which returns the same text.
    """
    is_doc = code.co_consts[:1] == (doc,)
    is_loaded = any(
        each.opcode in dis.hasconst and each.arg == 0 for each in dis.get_instructions(code)
    )
    return code.co_consts[1:] if is_doc and not is_loaded else code.co_consts
