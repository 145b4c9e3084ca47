"""Files, and their contents as memory."""

import errno
import os
import sys
from pathlib import Path

import pytest

from dask_limits.limits.linux import files

NAME = "dask-limits-test-of-files"


def mapped():
    return Path("/proc/self/maps").read_text().count(NAME)


@pytest.fixture
def contents():
    fd = os.memfd_create(NAME)
    os.write(fd, b"contents" * 1000)
    yield fd
    os.close(fd)


def test_a_mapping_goes_with_its_last_part(contents):
    view = files.map_privately(contents)
    assert bytes(view) == b"contents" * 1000
    part = view[8:16]
    del view
    assert mapped() == 1
    part[:] = b"replaced"
    assert os.pread(contents, 8, 8) == b"contents"
    del part
    assert mapped() == 0


def test_a_mapping_goes_whatever_interrupts_its_end(contents):
    def interrupt(_frame, event, _):
        if event == "call":
            raise KeyboardInterrupt

    view = files.map_privately(contents)
    sys.setprofile(interrupt)
    del view
    sys.setprofile(None)
    assert mapped() == 0


def test_a_file_that_cannot_be_mapped_is_an_error(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"contents")
    fd = os.open(path, os.O_WRONLY)
    with pytest.raises(OSError, match="denied") as caught:
        files.map_privately(fd)
    os.close(fd)
    assert caught.value.errno == errno.EACCES
