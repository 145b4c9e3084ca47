"""Warnings where limits would be lost silently.

Dask does not keep the annotations of dataframes, whose graph is made only when they are computed.
So limits do not hold for a dataframe that is made in a block and computed after it. Some functions
of Dask make flat graphs, which have no annotations either.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Final

import dask
from dask.callbacks import Callback

from dask_limits.dask.compat.dropped_annotations import (
    KEEPS,
    LOCAL,
    LOSES,
    dataframes_do_not_warn,
    living_expressions,
)
from dask_limits.dask.compat.shared_patch import shared

_STACK_LEVEL: Final = 5
"""From the warning up to the user's `with`: this block, contextlib, annotate's, contextlib."""
_DASKS: Final = {"dask", "dask_limits", "functools", "toolz"}


@contextlib.contextmanager
def warn_of_frames() -> Iterator[None]:
    """Warn at the end of the block if dataframes that were made in it are still in use."""
    before = living_expressions()
    # Dask would warn of each dataframe made here that its annotations "will be ignored". They are
    # not if it is computed here too.
    with dataframes_do_not_warn():
        yield
    if living_expressions() - before:
        gc.collect()
        if living_expressions() - before:
            warnings.warn(
                "A Dask dataframe was made inside of annotate(...). Limits do not hold for what"
                " is computed from it after the block: Dask keeps no annotations of dataframes."
                " Make the dataframe before the block, and compute it (compute, persist) inside.",
                stacklevel=_STACK_LEVEL,
            )


def are_lost() -> bool:
    """Whether a graph with limits is optimized for something that drops them. Warns if it is.

    Dask does not pass on who asks for the optimization, so this looks at the stack.
    """
    for place in _callers():
        if place == KEEPS:
            return False
        if place in LOCAL or place in LOSES:
            # In a block, what it makes has the limits of the block, or is warned of below.
            if "limits" not in dask.get_annotations():
                _warn(place)
            return True
    return False


@shared
def warn_of_local_schedulers() -> Iterator[None]:
    """Warn of what is computed in this block without a cluster.

    `are_lost` does not see all of it: it sees no dataframes, and not every graph is optimized.
    """
    with Callback(start=_warn_if_in_block):
        yield


def _warn_if_in_block(_: object) -> None:
    """Called by Dask when one of its schedulers of one process starts."""
    if "limits" in dask.get_annotations():
        for place in _callers():
            if place in LOCAL:
                _warn(place)
                return


def _callers() -> Iterator[str]:
    """The functions on the stack, from the innermost one, written as in the tables."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield f"{frame.f_globals.get('__name__')}:{frame.f_code.co_qualname}"
        frame = frame.f_back


def _warn(place: str) -> None:
    if place in LOCAL:
        why = f"{LOCAL[place]} does not enforce limits. Use a Client of a distributed cluster."
    else:
        why = (
            f"{LOSES[place]} does not keep annotations. Call it, or compute its result, in a"
            " block of annotate()."
        )
    warnings.warn(f"The limits of a Dask graph are lost: {why}", stacklevel=_frames_of_dask())


def _frames_of_dask() -> int:
    """The stack level, seen from `_warn`, of the code that has called Dask."""
    level = 0
    for place in _callers():
        if place.split(":")[0].split(".")[0] not in _DASKS:
            break
        level += 1
    return level
