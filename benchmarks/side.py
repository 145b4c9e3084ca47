"""The process of one measurement: `python -m benchmarks.side MODULE ROW SIDE SIZE FILE`.

It imports what this row needs, and nothing else.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main(module: str, name: str, side: str, size: str, file: str) -> None:
    row = next(row for row in importlib.import_module(module).ROWS if row.name == name)
    Path(file).write_text(repr(row.sides[side](int(size))))


if __name__ == "__main__":
    main(*sys.argv[1:])
