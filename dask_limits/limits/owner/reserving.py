"""Has a call reserve what its limits name, before it runs: for threads that run one call."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dask_limits.limits.cancel import CancelToken
from dask_limits.limits.limits import Limits
from dask_limits.limits.owner.account import Account, account_here
from dask_limits.limits.owner.reservation import Reservation, request_of
from dask_limits.limits.task import enclosing
from dask_limits.placement.resources import Request
from dask_limits.units import format_bytes

if TYPE_CHECKING:
    from dask_limits.exceptions import LimitRefusedError

needed: Final = set[int]()
"""Threads without which other calls do not end: those that take the steps of calls."""


def request_here(limits: Limits) -> Request | None:
    """What a call of this process with these limits reserves; None if nothing."""
    request = request_of(limits)
    return None if request is None or enclosing.has_reserved() else request


def refusal_error(name: str, limits: Limits) -> LimitRefusedError | None:
    """The error of a call that reserves more than there ever is; None if it does not."""
    if not limits.reserves or (request := request_of(limits)) is None:
        return None
    account = account_here()
    if (why := account.refusal(request)) is None:
        return None
    from dask_limits.exceptions import LimitRefusedError  # which imports pynisher, 40 ms

    if why.limit == "memory":
        asked, most = f"{format_bytes(int(why.asked))} of memory", format_bytes(int(why.most))
    else:
        asked, most = f"{why.asked} cores", str(why.most)
    return LimitRefusedError(
        f"{name}() reserves {asked}, but {account.capacity.what} has {most}. Lower the limit, or"
        " use reserve=False, with which the call reserves nothing.",
        call=name,
        limits=limits,
        limit=why.limit,
        asked=why.asked,
        most=why.most,
    )


def run(request: Request, cancel: CancelToken, call: Callable[[], object]) -> None:
    """Make a call when what it reserves is free, or when it is cancelled."""
    account, one = account_here(), Reservation(request)
    try:
        try:
            if not account.take(one, waits=False) and threading.get_ident() not in needed:
                _wait(account, one, cancel)
            call()
        finally:
            account.give_back(one)
    finally:
        if one.is_granted:  # Ctrl-C has interrupted that
            account.give_back(one)


def _wait(account: Account, one: Reservation, cancel: CancelToken) -> None:
    # A lock is a bell that the handler of a signal can ring in the thread that waits for it.
    bell = threading.Lock()
    bell.acquire()

    def ring() -> None:
        with contextlib.suppress(RuntimeError):  # it was rung already
            bell.release()

    one.tell = ring
    try:
        if cancel.on_cancel(ring):
            account.take(one)
            while not (one.is_granted or cancel.cancelled):
                bell.acquire(timeout=account.patience)
                account.look()
    finally:
        cancel.on_cancel(None)
