"""What to call the jobs of this program."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_MOST_LETTERS = 64


def program_name() -> str:
    """The name of the script, module or notebook that this process runs; else "python".

    It has letters, digits, "_", "." and "-" only, 64 at most.
    """
    main = sys.modules["__main__"]
    if (spec := getattr(main, "__spec__", None)) is not None:  # python -m
        name = spec.name.removesuffix(".__main__")
    elif (file := Path(getattr(main, "__file__", ""))).is_file():
        name = file.stem
    else:  # Jupyter tells a kernel the name of its notebook so
        name = Path(os.environ.get("JPY_SESSION_NAME", "")).stem
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[:_MOST_LETTERS] or "python"
