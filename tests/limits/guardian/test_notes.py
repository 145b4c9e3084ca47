"""Calls that write what they like into the notes of their process."""

import contextlib
import ctypes
import math
import os
import socket
import sys
import threading
import time

import cloudpickle
import pytest
from isolations import on_processes
from kinds import KINDS, expect_breach
from own_notes import own_notes

from dask_limits import exceptions
from dask_limits.limits.ipc import messages, task_cells, transport
from dask_limits.limits.ipc.cells import Cells

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest


def saying(what):
    """Say so as soon as the call has begun, and then go over a limit."""

    def write(over):
        numbers, seconds = own_notes()
        what(numbers, seconds)
        over()

    write.__name__ = what.__name__
    return write


def it_has_not_begun(numbers, seconds):
    numbers[task_cells.CALL] = 0


def it_is_another_call(numbers, seconds):
    numbers[task_cells.CALL] += 1


def it_is_now_this_call_and_now_another(numbers, seconds):
    call = numbers[task_cells.CALL]

    def go_on():
        while True:
            numbers[task_cells.CALL] = call + 1
            numbers[task_cells.CALL] = call

    threading.Thread(target=go_on, daemon=True).start()


def it_is_done(numbers, seconds):
    numbers[task_cells.DONE] = numbers[task_cells.CALL]


def it_is_done_again_and_again(numbers, seconds):
    call = numbers[task_cells.CALL]

    def go_on():
        while True:
            numbers[task_cells.DONE] = 0
            numbers[task_cells.DONE] = call
            time.sleep(0.001)

    threading.Thread(target=go_on, daemon=True).start()


def it_is_answered(numbers, seconds):
    numbers[task_cells.DONE] = numbers[task_cells.ANSWERED] = numbers[task_cells.CALL]


def it_starts_in_the_future(numbers, seconds):
    seconds[task_cells.START] = seconds[task_cells.CLOCK] = time.monotonic() + 1e6


def its_times_are_no_numbers(numbers, seconds):
    for cell in (task_cells.START, task_cells.CLOCK, task_cells.CPU_BEFORE):
        seconds[cell] = math.nan


def its_times_are_infinite(numbers, seconds):
    for cell in (task_cells.START, task_cells.CLOCK, task_cells.CPU_BEFORE):
        seconds[cell] = math.inf


def it_runs_elsewhere(numbers, seconds):
    numbers[task_cells.RUNNER] = os.getppid()
    numbers[task_cells.OVERHEAD] = 2**63


def all_was_there_before(numbers, seconds):
    for cell in (task_cells.MEMORY_BEFORE, task_cells.OWN_BEFORE, task_cells.ANONYMOUS_BEFORE):
        numbers[cell] = 2**63
    numbers[task_cells.FAULTS_BEFORE] = 2**63
    seconds[task_cells.CPU_BEFORE] = 1e6


def it_has_looked_for_no_module(numbers, seconds):
    text = b"\xff\0a b\n..\n\nno_such\n" * 200
    ctypes.memmove(ctypes.addressof(numbers) + 4096, text, len(text))
    numbers[task_cells.LOOKED_FOR] = len(text) - 3


def everything_is_the_greatest_number(numbers, seconds):
    for n in range(Cells.CELLS):
        numbers[n] = 2**64 - 1


def everything_is_zero(numbers, seconds):
    for n in range(Cells.CELLS):
        numbers[n] = 0


WAYS = [
    it_has_not_begun,
    it_is_another_call,
    it_is_now_this_call_and_now_another,
    it_is_done,
    it_is_done_again_and_again,
    it_is_answered,
    it_starts_in_the_future,
    its_times_are_no_numbers,
    its_times_are_infinite,
    it_runs_elsewhere,
    all_was_there_before,
    it_has_looked_for_no_module,
    everything_is_the_greatest_number,
    everything_is_zero,
]


@on_processes
@pytest.mark.parametrize("what", WAYS, ids=lambda what: what.__name__)
def test_no_note_lifts_a_limit(isolated, what):
    for kind in KINDS:
        expect_breach(isolated, kind, saying(what))


MARKED = transport.record(messages.IMPORTED, 0)
"""A message that begins as ours do, and is of no call."""


@on_processes
@pytest.mark.parametrize("sent", [b"", b"abc", MARKED], ids=["nothing", "nonsense", "messages"])
def test_a_call_that_says_that_it_is_answered_is_ended_soon_after_its_wall_time(isolated, sent):
    def say():
        numbers, _ = own_notes()
        it_is_answered(numbers, None)
        sockets = []
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - its names are numbers
            with contextlib.suppress(OSError):
                sockets.append(socket.socket(fileno=os.dup(int(name))))
        while True:
            time.sleep(0 if sent else 0.1)
            for sock in sockets if sent else []:
                with contextlib.suppress(OSError):
                    sock.send(sent, socket.MSG_DONTWAIT)

    start = time.monotonic()
    error = isolated(say, wall_time=0.25).run().exception
    assert isinstance(error, exceptions.CallError)
    assert time.monotonic() - start < 18  # it was 20 s, or for ever
