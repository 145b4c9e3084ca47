import traceback

import pytest

from dask_limits.limits.owner import start


def test_a_guardian_that_cannot_start_is_told_in_the_same_few_lines_each_time(monkeypatch):
    def fails(*_):
        raise OSError("no room")

    monkeypatch.setattr(start, "Connection", fails)
    waiting = start.Start(None)
    lengths = []
    for _ in range(3):
        with pytest.raises(OSError, match="no room") as caught:
            for _ in waiting.wait():
                pass
        lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert len(set(lengths)) == 1
