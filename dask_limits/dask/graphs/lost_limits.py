"""Warnings where limits would silently be lost.

Dask keeps annotations for all but dataframes: their graph is made only when they are computed. So
limits hold for what is computed in a block, and would not hold for a dataframe that is made in it
and computed after it. And some of Dask's functions make flat graphs, which have no annotations.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

import dask
from dask.callbacks import Callback

_STACK_LEVEL: Final = 5
"""From the warning to the user's `with`: this block, contextlib, annotate's, contextlib."""
_DASKS: Final = {"dask", "dask_limits", "functools", "toolz"}
_KEEPS: Final = {("dask.delayed", "_finalize_args_collections")}
_LOSES: Final = {
    ("dask.array.core", "to_delayed"): "to_delayed()",
    ("dask.bag.core", "to_delayed"): "to_delayed()",
    ("dask.bag.core", "to_dataframe"): "to_dataframe()",
    ("dask.base", "optimize"): "dask.optimize()",
    ("dask.delayed", "unpack_collections"): "dask.delayed()",
}
_LOCAL: Final = {
    ("dask.threaded", "get"): 'the scheduler "threads"',
    ("dask.local", "get_sync"): 'the scheduler "sync"',
    ("dask.multiprocessing", "get"): 'the scheduler "processes"',
}


@contextlib.contextmanager
def warn_of_frames() -> Iterator[None]:
    """Warn at the end if there are dataframes that have been made in this block."""
    collection = sys.modules.get("dask.dataframe.dask_expr._collection")
    before = _living()
    dasks_own = getattr(collection, "_WARN_ANNOTATIONS", None)
    if collection is not None:
        # Dask warns of every dataframe that is made under annotations, that they "will be
        # ignored". They are not, if it is computed under them too.
        collection._WARN_ANNOTATIONS = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if collection is not None:
            collection._WARN_ANNOTATIONS = dasks_own  # type: ignore[attr-defined]
    if _living() - before:
        gc.collect()
        if _living() - before:
            warnings.warn(
                "A Dask dataframe was made inside of annotate(...). Limits hold for what is"
                " computed in the block (compute, persist), and not for what is computed of this"
                " dataframe after it: Dask keeps no annotations of dataframes. Make it before the"
                " block and compute it inside.",
                stacklevel=_STACK_LEVEL,
            )


def warn_if_lost() -> None:
    """Warn if a graph with limits is being optimized for something that knows no limits.

    Who asks for the optimization, the stack says: Dask passes nothing on that would.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        place = str(frame.f_globals.get("__name__")), frame.f_code.co_name
        if place in _KEEPS:
            return None
        if place in _LOCAL.keys() | _LOSES.keys() and "limits" in dask.get_annotations():
            return None  # a block around it: what it makes has its limits, or is warned of below
        if place in _LOCAL:
            return _warn_of_local(place)
        if place in _LOSES:
            return _warn(
                f"{_LOSES[place]} keeps no annotations. Call it in the block of annotate() too,"
                " or have such a block around the computation"
            )
        frame = frame.f_back
    return None


def warn_of_local_schedulers() -> None:
    """Warn of what is computed in a block without a cluster, from now on.

    Not every graph is optimized, and those of dataframes are not by us.
    """
    _in_block.register()  # once more does no harm


def _warn_if_in_block(_: object) -> None:
    """Called by Dask when one of its schedulers of one process starts."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and "limits" in dask.get_annotations():
        place = str(frame.f_globals.get("__name__")), frame.f_code.co_name
        if place in _LOCAL:
            return _warn_of_local(place)
        frame = frame.f_back
    return None


_in_block: Final = Callback(start=_warn_if_in_block)


def _warn_of_local(place: tuple[str, str]) -> None:
    _warn(f"{_LOCAL[place]} knows no limits. Only workers of a cluster do")


def _warn(why: str) -> None:
    text = f"Limits that were put on a Dask graph are lost: {why}."
    warnings.warn(text, stacklevel=_frames_of_dask())


def _frames_of_dask() -> int:
    """How far up the stack, from who warns, the code is that has called Dask."""
    level = 2
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and _package(frame) in _DASKS:
        frame = frame.f_back
        level += 1
    return level


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def _living() -> set[str]:
    """The names of all expressions that dataframes are made of, and that are in use."""
    module = sys.modules.get("dask.dataframe.dask_expr._expr")
    base = getattr(module, "Expr", None)
    found: set[str] = set()
    unseen: list[Any] = [] if base is None else [base]
    while unseen:
        cls = unseen.pop()
        unseen += cls.__subclasses__()
        found.update(cls.__dict__.get("_instances", ()))
    return found
