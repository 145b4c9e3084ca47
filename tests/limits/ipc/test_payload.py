import mmap
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_limits.limits.ipc import payload
from dask_limits.limits.ipc.payload import Packed


def through(thing, new_pickler=pickle.Pickler):
    with payload.pack(thing, new_pickler) as packed:
        return payload.unpack(memoryview(packed.head), list(packed.fds))


THING = st.recursive(
    st.none() | st.integers() | st.text() | st.binary() | st.integers(0, 200_000).map(bytes),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@settings(max_examples=100, deadline=None)
@given(THING)
def test_what_is_packed_comes_out(thing):
    assert through(thing) == thing


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 300_000), max_size=6), st.booleans())
def test_arrays_come_out_with_their_values_and_stay_as_writable_as_they_were(sizes, writable):
    arrays = [np.arange(size, dtype=np.uint8) for size in sizes]
    for array in arrays:
        array.flags.writeable = writable
    got = through(arrays)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, got, strict=True))
    assert all(array.flags.writeable == writable for array in got)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 100_000), max_size=4),
    st.booleans(),
    st.sampled_from([4, 5]),
    st.booleans(),
)
def test_what_is_passed_on_is_as_it_was_when_it_was_pickled(sizes, writable, protocol, frozen):
    arrays = [np.arange(size, dtype=np.uint8) for size in sizes]
    for array in arrays:
        array.flags.writeable = writable
    packed = Packed.of(arrays, pickle.Pickler, lambda _: None)
    expected = [array.copy() for array in arrays]
    if writable:
        for array in arrays:
            array[:] = 7
    for _ in range(2):  # twice on the way, as through a scheduler
        frames: list[pickle.PickleBuffer] = []
        keep = {"buffer_callback": frames.append} if protocol == 5 else {}
        pickled = pickle.dumps(packed, protocol, **keep)
        on_the_way = [bytes(one.raw()) if frozen else bytearray(one.raw()) for one in frames]
        packed = pickle.loads(pickled, buffers=on_the_way)
    got = packed.load()
    assert all(np.array_equal(a, b) for a, b in zip(expected, got, strict=True))
    assert all(array.flags.writeable == writable for array in got)


def test_writing_to_what_came_out_does_not_change_what_was_sent():
    sent = np.zeros(100_000)
    with payload.pack(sent, pickle.Pickler) as packed:
        once = payload.unpack(memoryview(packed.head), list(packed.fds))
        once[:] = 1
        again = payload.unpack(memoryview(packed.head), list(packed.fds))
    assert again.sum() == sent.sum() == 0


def test_small_things_need_no_file_and_heads_of_large_ones_fit_in_a_message():
    assert payload.pack(list(range(100)), pickle.Pickler).fds == []
    with payload.pack([np.zeros(5000) for _ in range(5000)], pickle.Pickler) as packed:
        assert len(packed.head) < 100_000


def test_arrays_that_are_not_contiguous_come_out_too():
    array = np.arange(1_000_000).reshape(1000, 1000)[::2, ::3]
    assert np.array_equal(through(array), array)


def test_a_failing_pickler_leaves_no_file_open():
    with pytest.raises(Exception, match="pickle"):
        payload.pack([bytes(1_000_000), lambda: None], pickle.Pickler)


def test_memory_that_its_sender_could_still_change_is_refused():
    fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.write(fd, bytes(mmap.PAGESIZE))
    head = payload._HEAD.pack(0, 0)
    with pytest.raises(ValueError, match="can still change"):
        payload.unpack(memoryview(head), [fd])
    os.close(fd)


def test_a_head_that_promises_more_than_there_is_is_refused():
    with payload.pack(np.zeros(100_000), pickle.Pickler) as packed:
        size = payload._BUFFER.size
        head = packed.head[:-size] + payload._BUFFER.pack(0, mmap.PAGESIZE, 2**40, False)
        with pytest.raises(ValueError, match="has less than"):
            payload.unpack(memoryview(head), list(packed.fds))
        with pytest.raises(ValueError, match="too few to list 1000 buffers"):
            payload.unpack(memoryview(payload._HEAD.pack(-1, 1000)), [])


def test_a_file_that_got_lost_on_the_way_is_told_as_such():
    packed = payload.pack(bytes(1_000_000), pickle.Pickler)
    with packed, pytest.raises(OSError, match="too many open files"):
        payload.unpack(memoryview(packed.head), [])


def mapped():
    """The sizes of the files of payloads that are mapped, in bytes, by their inodes."""
    sizes = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "dask-limits-payload" in line:
            addresses, _, _, _, inode, *_ = line.split()
            start, end = (int(address, 16) for address in addresses.split("-"))
            sizes[inode] = sizes.get(inode, 0) + end - start
    return sizes


def test_an_array_that_is_kept_keeps_nothing_of_what_came_with_it():
    got = through([np.ones(1_000_000, np.uint8) for _ in range(5)] + [np.ones(40_000, np.uint8)])
    assert len(mapped()) == 6
    kept = got[3]
    del got
    assert sum(mapped().values()) < 1_010_000
    assert kept.sum() == 1_000_000
    del kept
    assert not mapped()


@pytest.mark.parametrize(
    ("number", "size"), [(2_100, 65_536), (3_000, 40_000), (100_000, 100), (3, 2_000_000)]
)
def test_any_number_of_arrays_takes_few_files_and_mappings(number, size):
    sent = [np.full(size, n % 251, np.uint8) for n in range(number)]
    with payload.pack(sent, pickle.Pickler) as packed:
        assert len(packed.fds) <= 18
        assert len(packed.head) < 100_000
        got = payload.unpack(memoryview(packed.head), list(packed.fds))
    assert len(mapped()) <= 18
    assert all(map(np.array_equal, sent, got))
    assert all(array.flags.writeable for array in got)
    del got


def test_what_is_held_keeps_no_file_open_and_its_memory_only_as_long():
    files = psutil.Process().num_fds()
    held = []
    for n in range(50):
        with payload.pack(np.full(20_000, n), pickle.Pickler) as packed:
            held.append(payload.take(memoryview(packed.head), list(packed.fds)))
    assert psutil.Process().num_fds() == files
    assert len(mapped()) == 50
    arrays = [packed.load() for packed in held]
    del held
    assert [array[-1] for array in arrays] == list(range(50))
    arrays[0][:] = 7
    del arrays
    assert not mapped()


@pytest.mark.parametrize("protocol", [4, 5])
def test_what_is_packed_can_be_passed_on_by_pickle(protocol):
    sent = [np.arange(100_000), bytes(range(256)) * 1000]
    with payload.pack(sent, pickle.Pickler) as packed:
        taken = payload.take(memoryview(packed.head), list(packed.fds))
    array, data = pickle.loads(pickle.dumps(taken, protocol)).load()
    assert (array == sent[0]).all()
    assert data == sent[1]
    array[0] = 5  # it can be written to, as what was sent can


def test_what_is_packed_is_passed_on_without_a_copy():
    with payload.pack(np.arange(100_000), pickle.Pickler) as packed:
        taken = payload.take(memoryview(packed.head), list(packed.fds))
    buffers = []
    pickled = pickle.dumps(taken, 5, buffer_callback=buffers.append)
    assert len(pickled) < 1000
    assert sum(buffer.raw().nbytes for buffer in buffers) == 800_000
    assert 800_000 < sys.getsizeof(taken) < 802_000
