"""What a directory of results remembers of its batch, for `--resume`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_FILE: Final = "batch.json"
_VERSION: Final = 1
_PATHS: Final = ("table", "cwd")


class Settings:
    """The options of a batch, in a file of its directory."""

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether a directory has a batch."""
        return (folder / _FILE).exists()

    @staticmethod
    def save(folder: Path, options: Mapping[str, Any]) -> None:
        """Write the options.

        Raises:
            OSError: if the directory cannot be written to.
        """
        plain = {n: str(v) if isinstance(v, Path) else v for n, v in options.items()}
        text = json.dumps({"version": _VERSION, "options": plain}, indent=2)
        unfinished = folder / f"{_FILE}.unfinished"
        unfinished.write_text(text + "\n", encoding="utf-8")
        unfinished.rename(folder / _FILE)

    @staticmethod
    def load(folder: Path) -> dict[str, Any]:
        """Read the options.

        Raises:
            OSError, ValueError: if there are none, or of a version that is not known.
        """
        known = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        version = known.get("version") if isinstance(known, dict) else None
        if version not in (None, _VERSION):
            raise ValueError(f"it is of version {version}, and this one is {_VERSION}")
        options = known.get("options") if version else None
        if not isinstance(options, dict) or not options.keys() >= {"file", "cwd"}:
            raise ValueError(f"{_FILE} is damaged")
        return options | {n: Path(options[n]) for n in _PATHS if options.get(n)}
