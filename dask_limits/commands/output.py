"""The files for what a command writes: one for standard output, and one for standard error."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from dask_limits.commands.template import Template, argument, text_of

_OUT: Final = ".out"
_ERR: Final = ".err"
_OPEN: Final = re.compile(r"/+dev/(stdin|stdout|stderr|fd/.*)|/+proc/.*/fd/.*")
_MARK: Final = "\0"  # which no text has


class Output:
    """The names of both files, as a template.

    A value is part of the name of a file, unless it is a `Path`.

    Different names for standard output have different names for standard error.

    Example:
        >>> Output(Template.of("o/{lr}.out")).files([], {"lr": 0.1})
        (PosixPath('o/0.1.out'), PosixPath('o/0.1.err'))
    """

    def __init__(self, template: Template) -> None:
        self.template = template
        last = template.parts[-1]
        if isinstance(last, str):
            _check_ending(last)
            if len(template.parts) == 1:
                _check_open(last)
        # A value may also end in ".out": "a" and "a.out" would have one file for errors.
        self._replaces = isinstance(last, str) and last.endswith(_OUT)

    def files(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Path, Path]:
        """The names of both files of a call.

        Raises:
            ValueError: if a value leads to another folder.
        """
        out = self.template.fill(args, kwargs)
        # No value but a path has a "/": with a mark for the others these are the same parts.
        marked = "".join(
            part if isinstance(part, str) else _marked(part.key, argument(part.key, args, kwargs))
            for part in self.template.parts
        )
        for part, name in zip(marked.split("/"), out.split("/"), strict=True):
            if _MARK in part and name in ("", ".", ".."):
                raise ValueError(
                    f"output={out!r} has {name!r} from an argument, where the name of a file is to"
                    " be"
                )
        _check_ending(out)
        _check_open(out)
        if Path(out).is_char_device():  # /dev/null
            return Path(out), Path(out)
        err = (out.removesuffix(_OUT) if self._replaces else out) + _ERR
        return _file(out), _file(err)


def _marked(key: int | str, value: Any) -> str:
    text = text_of(value, key)
    if isinstance(value, os.PathLike):
        return text
    if "/" in text:
        raise ValueError(
            f'The argument for {{{key}}} is {text!r}: in output it must not have a "/", as it is'
            " part of the name of a file. If it is to be a path, use a pathlib.Path."
        )
    return _MARK


def _file(name: str) -> Path:
    path = Path(name)
    if path.exists() and not path.is_file():
        raise ValueError(
            f"output: {name} is neither a file nor a device such as /dev/null. Name another file."
        )
    return path


def _check_open(name: str) -> None:
    if _OPEN.fullmatch(os.path.abspath(name)):  # noqa: PTH100  # without following links
        raise ValueError(
            f"output={name!r} is open in this process. Leave output out, as calls return what"
            " commands write, or name a file."
        )


def _check_ending(name: str) -> None:
    if name.endswith(_ERR):
        raise ValueError(
            f"output={name!r} ends in .err, as the files for standard error do. Use another ending,"
            " such as .out."
        )
