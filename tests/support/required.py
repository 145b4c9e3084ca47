"""What a test needs of its machine: rights, programs. Where that is missing, the test is skipped.

Not so with DASK_LIMITS_NEEDS_ALL=1, as where changes are checked: then it fails. So no promise is
left untested there without anybody noticing.
"""

from __future__ import annotations

import os
from typing import Final

import pytest

_NEEDS_ALL: Final = os.environ.get("DASK_LIMITS_NEEDS_ALL") == "1"


def need(is_there: object, what: str) -> None:
    """Go on with a test if what it needs is there."""
    if not is_there:
        (pytest.fail if _NEEDS_ALL else pytest.skip)(f"needs {what}")


def needs(is_there: object, what: str) -> pytest.MarkDecorator:
    """Mark a test that needs something. If it must not be skipped, it fails by itself."""
    return pytest.mark.skipif(not is_there and not _NEEDS_ALL, reason=f"needs {what}")


def need_root() -> None:
    """Go on with a test that only root can run."""
    need(os.geteuid() == 0, "root")
