from __future__ import annotations

from dask_limits import Requeue


def test_what_is_requeued_comes_next_and_what_is_appended_last():
    items = Requeue(n for n in range(3))
    assert next(items) == 0
    items.append(8, 9)
    items.requeue(5)
    items.requeue(6, 7)
    assert list(items) == [6, 7, 5, 1, 2, 8, 9]
    assert next(items, None) is None
    items.append(1)
    items.requeue(0)
    assert list(items) == [0, 1]
