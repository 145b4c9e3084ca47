from __future__ import annotations

from collections.abc import Iterator

import pytest
from studies import close_all


@pytest.fixture(autouse=True)
def storages_are_closed(nothing_is_left_behind: None) -> Iterator[None]:
    yield
    close_all()
