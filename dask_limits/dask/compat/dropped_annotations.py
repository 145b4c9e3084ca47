"""Those that tell where limits of graphs are lost: dataframes, and functions that drop limits."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

from dask_limits.dask.compat.shared_patch import SharedPatch
from dask_limits.dask.compat.undocumented_name import Name

_WARNED: Final = "to warn of limits that are lost, and of no others"
_NO_WARNING: Final = "No warning where this function loses limits."


def _place(path: str, since: str = "2021.1") -> Name:
    return Name("dask", f"dask.{path}", _WARNED, since, _NO_WARNING)


_KEEPS: Final = _place("delayed:_finalize_args_collections", "2025.4.0")
_LOSES: Final = {
    _place("array.core:Array.to_delayed"): "to_delayed()",
    _place("bag.core:Bag.to_delayed"): "to_delayed()",
    _place("bag.core:Bag.to_dataframe"): "to_dataframe()",
    _place("base:optimize"): "dask.optimize()",
    _place("delayed:unpack_collections"): "dask.delayed()",
}
_LOCAL: Final = {
    _place("threaded:get"): 'the scheduler "threads"',
    _place("local:get_sync"): 'the scheduler "sync"',
    _place("multiprocessing:get"): 'the scheduler "processes"',
}
_WARN_ANNOTATIONS: Final = Name(
    "dask",
    "dask.dataframe.dask_expr._collection:_WARN_ANNOTATIONS",
    "to silence Dask's warning that dataframes ignore annotations, where limits hold",
    "2025.1.0",
    "Dask warns, once a process, of a dataframe that is made in a block of annotate().",
)
_EXPRESSION: Final = Name(
    "dask",
    "dask.dataframe.dask_expr._expr:Expr",
    "to find dataframes that outlive the block of annotate() they were made in",
    "2025.1.0",
    "No warning of dataframes that are computed after the block, without limits.",
)
_INSTANCES: Final = Name(
    "dask",
    "dask._expr:SingletonExpr._instances",
    _EXPRESSION.what_for,
    "2025.4.0",
    _EXPRESSION.without,
)
NAMES: Final = (_KEEPS, *_LOSES, *_LOCAL, _WARN_ANNOTATIONS, _EXPRESSION, _INSTANCES)

Place = tuple[str, str]
"""Where code is: the name of its module, and that of its function."""


def _code_of(name: Name) -> Place:
    module, _, qualified = name.path.partition(":")
    return module, qualified.rpartition(".")[2]


KEEPS: Final = {_code_of(_KEEPS)}
"""Code of Dask that keeps limits, although it is called by code that does not."""
LOSES: Final = {_code_of(name): what for name, what in _LOSES.items()}
"""Code of Dask that drops annotations, with what users call it."""
LOCAL: Final = {_code_of(name): what for name, what in _LOCAL.items()}
"""Dask's schedulers of one process, which take no annotations, with what users call them."""


def dataframes_do_not_warn() -> AbstractContextManager[None]:
    """Have Dask not warn in this block that dataframes ignore annotations, in all threads."""
    module, _, flag = _WARN_ANNOTATIONS.path.partition(":")
    is_there = hasattr(sys.modules.get(module), flag)  # imported now, it would take a second
    return _silence.block() if is_there else contextlib.nullcontext()


def _silence_dataframes() -> Callable[[], object]:
    module_name, _, flag = _WARN_ANNOTATIONS.path.partition(":")
    module = sys.modules[module_name]
    original = getattr(module, flag)
    setattr(module, flag, False)
    return lambda: setattr(module, flag, original)


_silence: Final = SharedPatch(_silence_dataframes)


def living_expressions() -> set[str]:
    """The names of all expressions of dataframes that are in use in this process."""
    module_name, _, base_name = _EXPRESSION.path.partition(":")
    base = getattr(sys.modules.get(module_name), base_name, None)
    found: set[str] = set()
    unseen: list[Any] = [] if base is None else [base]
    while unseen:
        cls = unseen.pop()
        unseen += cls.__subclasses__()
        found.update(vars(cls).get("_instances", ()))
    return found
