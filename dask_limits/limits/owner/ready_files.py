"""Waits until files of many can be read, and knows whose they are."""

from __future__ import annotations

import contextlib
import os
import select
import weakref
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Final, Generic, TypeVar

W = TypeVar("W")

_ONCE: Final = select.EPOLLIN | select.EPOLLONESHOT


class ReadyFiles(Generic[W]):
    """Files, each with those that wait for it in turn. One thread waits; any may ring.

    A waiter whose file was closed meanwhile, by another thread or because a guardian was lost, is
    in `stranded`: it is to go on.
    """

    def __init__(self) -> None:
        self.stranded: list[W] = []
        self._waiters: defaultdict[int, deque[W]] = defaultdict(deque)
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._close_bell = weakref.finalize(self, os.close, self._bell)

    def ring(self) -> None:
        """End the wait, or the next one."""
        os.eventfd_write(self._bell, 1)

    def wait(self, seconds: float) -> list[W]:
        """Wait for a file, the bell, or some time. The first waiter of each file that is ready."""
        files = [fd for fd, _ in self._epoll.poll(seconds)]
        if self._bell in files:
            os.eventfd_read(self._bell)
        return [self._waiters[fd][0] for fd in files if fd in self._waiters]

    def expect(self, waiter: W, files: Iterable[int]) -> None:
        """Have this one wait for one of these files."""
        for fd in files:
            self._waiters[fd].append(waiter)
            self._listen_to(fd)

    def forget(self, waiter: W, files: Iterable[int]) -> None:
        """Have this one wait for none of these files any more."""
        for fd in files:
            waiters = self._waiters[fd]
            with contextlib.suppress(ValueError):
                waiters.remove(waiter)
            if waiters:
                self._listen_to(fd)
            else:
                del self._waiters[fd]

    def forget_all(self) -> None:
        """Have nobody wait."""
        self._waiters.clear()
        self.stranded.clear()

    def _listen_to(self, fd: int) -> None:
        """Be told once when this can be read."""
        try:
            try:
                self._epoll.modify(fd, _ONCE)
            except FileNotFoundError:
                self._epoll.register(fd, _ONCE)
        except (OSError, ValueError):
            self.stranded.extend(self._waiters.pop(fd))

    def close(self) -> None:
        """Close the files of its own."""
        self._close_bell()
        self._epoll.close()
