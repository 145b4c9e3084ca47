from __future__ import annotations

import contextlib
import faulthandler
import tempfile

import pytest

from dask_limits.limits.ipc.task_cells import TaskCells, is_whole, make


def test_stacks_are_whole_when_the_last_line_is_a_frame():
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        lines = file.read().decode().splitlines(keepends=True)
    assert is_whole("".join(lines))
    assert not is_whole("".join(lines)[:-1])


@pytest.mark.parametrize("text", ["", "Current thread 0x1 (most recent call first):\n"])
def test_stacks_that_a_process_has_only_begun_to_write_are_not_whole(text):
    assert not is_whole(text)


def test_stacks_are_what_was_written_since_they_were_forgotten():
    with contextlib.closing(TaskCells(make())) as cells:
        assert cells.stacks() == ""
        for _ in range(2):
            cells.forget_stacks()
            faulthandler.dump_traceback(cells.fd)
            assert cells.stacks().count("Current thread") == 1
