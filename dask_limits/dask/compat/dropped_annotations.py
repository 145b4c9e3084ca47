"""Those that tell where limits of graphs are lost: dataframes, and functions that drop limits."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

from dask_limits.dask.compat.shared_patch import shared
from dask_limits.dask.compat.undocumented_name import names

LOSES: Final = {
    "dask.array.core:Array.to_delayed": "to_delayed()",
    "dask.bag.core:Bag.to_delayed": "to_delayed()",
    "dask.bag.core:Item.to_delayed": "to_delayed()",
    "dask.bag.core:Bag.to_dataframe": "to_dataframe()",
    "dask.base:optimize": "dask.optimize()",
    "dask.delayed:unpack_collections": "dask.delayed()",
}
"""Code of Dask that drops annotations, with what users call it."""
LOCAL: Final = {
    "dask.threaded:get": 'the scheduler "threads"',
    "dask.local:get_sync": 'the scheduler "sync"',
    "dask.multiprocessing:get": 'the scheduler "processes"',
}
"""Dask's schedulers of one process, which take no annotations, with what users call them."""
KEEPS: Final = "dask.delayed:_finalize_args_collections"
"""Code of Dask that keeps limits, although it is called by code that does not."""

NAMES: Final = (
    names(
        *(f"{path} 2021.1" for path in [*LOSES, *LOCAL]),
        f"{KEEPS} 2025.4.0",
        what_for="to warn of limits that are lost, and of no others",
        without="No warning where this function loses limits.",
    )
    | names(
        "dask.dataframe.dask_expr._collection:_WARN_ANNOTATIONS 2025.1.0",
        what_for="to silence Dask's warning that dataframes ignore annotations, where limits hold",
        without="Dask warns, once a process, of a dataframe that is made in a block of annotate().",
    )
    | names(
        "dask.dataframe.dask_expr._expr:Expr 2025.1.0",
        "dask._expr:SingletonExpr._instances 2025.4.0",
        what_for="to find dataframes that outlive the block of annotate() they were made in",
        without="No warning of dataframes that are computed after the block, without limits.",
    )
)


def _imported(module: str) -> Any:
    """A module of dataframes; None if it has not been imported: that would take a second."""
    return sys.modules.get(f"dask.dataframe.dask_expr.{module}")


def dataframes_do_not_warn() -> AbstractContextManager[None]:
    """Have Dask not warn in this block that dataframes ignore annotations, in all threads."""
    can_warn = hasattr(_imported("_collection"), "_WARN_ANNOTATIONS")
    return _no_warnings() if can_warn else contextlib.nullcontext()


@shared
def _no_warnings() -> Iterator[None]:
    module = _imported("_collection")
    original = module._WARN_ANNOTATIONS
    module._WARN_ANNOTATIONS = False
    yield
    module._WARN_ANNOTATIONS = original


def living_expressions() -> set[str]:
    """The names of all expressions of dataframes that are in use in this process."""
    base = getattr(_imported("_expr"), "Expr", None)
    found: set[str] = set()
    unseen: list[Any] = [] if base is None else [base]
    while unseen:
        cls = unseen.pop()
        unseen += cls.__subclasses__()
        found.update(vars(cls).get("_instances", ()))
    return found
