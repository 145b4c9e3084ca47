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
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

import dask
from dask.callbacks import Callback

from dask_limits.dask.compat.lost_limits import (
    KEEPS,
    LOCAL,
    LOSES,
    Place,
    dataframes_do_not_warn,
    living_expressions,
)
from dask_limits.dask.compat.shared_patch import SharedPatch

_STACK_LEVEL: Final = 5
"""From the warning to the user's `with`: this block, contextlib, annotate's, contextlib."""
_DASKS: Final = {"dask", "dask_limits", "functools", "toolz"}


@contextlib.contextmanager
def warn_of_frames() -> Iterator[None]:
    """Warn at the end of the block if dataframes that were made in it are still in use."""
    before = living_expressions()
    # Dask warns of every dataframe that is made under annotations, that they "will be ignored".
    # They are not, if it is computed under them too.
    with dataframes_do_not_warn():
        yield
    if living_expressions() - before:
        gc.collect()
        if living_expressions() - before:
            warnings.warn(
                "A Dask dataframe was made inside of annotate(...). Limits hold for what is"
                " computed in the block (compute, persist), but not for what is computed from this"
                " dataframe after it: Dask keeps no annotations of dataframes. Make the dataframe"
                " before the block, and compute it inside.",
                stacklevel=_STACK_LEVEL,
            )


def warn_if_lost() -> None:
    """Warn if a graph with limits is being optimized for something that knows no limits.

    Who asks for the optimization, the stack says: Dask passes nothing on that would.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        place = str(frame.f_globals.get("__name__")), frame.f_code.co_name
        if place in KEEPS:
            return None
        if place in LOCAL.keys() | LOSES.keys() and "limits" in dask.get_annotations():
            return None  # a block around it: what it makes has its limits, or is warned of below
        if place in LOCAL:
            return _warn_of_local(place)
        if place in LOSES:
            return _warn(
                f"{LOSES[place]} keeps no annotations. Call it in the block of annotate() too,"
                " or have such a block around the computation"
            )
        frame = frame.f_back
    return None


def warn_of_local_schedulers() -> contextlib.AbstractContextManager[None]:
    """Warn of what is computed in this block without a cluster.

    Not every graph is optimized, and those of dataframes are not by us.
    """
    return _local_schedulers.block()


def _warn_if_in_block(_: object) -> None:
    """Called by Dask when one of its schedulers of one process starts."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and "limits" in dask.get_annotations():
        place = str(frame.f_globals.get("__name__")), frame.f_code.co_name
        if place in LOCAL:
            return _warn_of_local(place)
        frame = frame.f_back
    return None


def _watch_local_schedulers() -> Callable[[], object]:
    callback = Callback(start=_warn_if_in_block)
    callback.register()
    unregister: Callable[[], object] = callback.unregister
    return unregister


_local_schedulers: Final = SharedPatch(_watch_local_schedulers)


def _warn_of_local(place: Place) -> None:
    _warn(f"{LOCAL[place]} knows no limits. Only workers of a cluster do")


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
