"""Templates of text with fields: `{}`, `{0}`, `{name}`; `{{` and `}}` are braces."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from numbers import Number
from typing import Any, Final, NamedTuple, Self

FIELD: Final = re.compile(r"\{([A-Za-z_]\w*|\d*)\}", re.ASCII)


class Field(NamedTuple):
    """A place in a template: the position or the name of the argument that fills it."""

    key: int | str
    is_bare: bool = True  # whether a plain word is safe here without quotes, in a shell
    is_word: bool = False  # whether it is all of a word there, so that several words fit


Part = str | Field


class Template(NamedTuple):
    """Text with fields that are filled as they are, such as the name of a file.

    Example:
        >>> Template.of("logs/{lr}-{}.out").fill([7], {"lr": 0.1})
        'logs/0.1-7.out'
    """

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, text: str) -> Self:
        """Parse a template.

        Raises:
            ValueError: if a brace belongs to no field, or there is a NUL.
        """
        return cls(joined(_parts(text)))

    def fill(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """The text with its fields filled."""
        return "".join(
            part if isinstance(part, str) else text_of(argument(part.key, args, kwargs), part.key)
            for part in self.parts
        )


def _parts(text: str) -> Iterator[Part]:
    check_text(text, repr(text))
    number = FieldNumbers(text)
    at = 0
    while at < len(text):
        if text.startswith(("{{", "}}"), at):
            yield text[at]
            at += 2
        elif text[at] == "{":
            match = field_at(text, at)
            yield Field(number.key(match[1]))
            at = match.end()
        elif text[at] == "}":
            raise lone_brace(text, at)
        else:
            yield text[at]
            at += 1


def joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The same parts, with the text between two fields in one piece."""
    groups = groupby(parts, lambda part: isinstance(part, str))
    return tuple(
        part
        for is_text, group in groups
        for part in (["".join(map(str, group))] if is_text else group)
    )


class FieldNumbers:
    """Gives each `{}` the next position, as `str.format` does."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._numbers_itself: bool | None = None
        self._next = 0

    def key(self, name: str) -> int | str:
        """The position or name that a field asks for."""
        if name and not name.isdigit():
            return name
        if self._numbers_itself not in (None, not name):
            raise ValueError(
                f"{self._text!r} has both {{}} and {{{name or 0}}}: use one kind, {{0}} as often as"
                " you need it"
            )
        self._numbers_itself = not name
        if name:
            return int(name)
        self._next += 1
        return self._next - 1


def field_at(text: str, at: int) -> re.Match[str]:
    """The field that begins with the brace at this place."""
    if (match := FIELD.match(text, at)) is None:
        raise lone_brace(text, at)
    return match


def lone_brace(text: str, at: int) -> ValueError:
    """The error of a brace that belongs to no field."""
    brace = text[at]
    return ValueError(
        f"{text!r} has a {brace!r} at position {at} that belongs to no field such as {{}}, {{0}} or"
        f" {{name}}. Write {brace * 2} for a brace."
    )


def check_text(text: str, what: str) -> None:
    """Check that the kernel can take a text as an argument.

    Raises:
        ValueError: if it has a NUL, or characters that cannot be encoded.
    """
    if "\0" in text:
        raise ValueError(f"{what} has a NUL character, which no argument of a command can have")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} cannot be encoded: {error.reason}") from None


def argument(key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The argument that fills a field; that there is one was checked."""
    return args[key] if isinstance(key, int) else kwargs[key]


def text_of(value: Any, key: int | str) -> str:
    """An argument as one word.

    Raises:
        TypeError: if it is several, or of a type that has no one way to write it.
        ValueError: if it has a NUL.
    """
    if isinstance(value, list | tuple):
        raise TypeError(
            f"The argument for {{{key}}} is a {type(value).__name__}, several words, where"
            " only one fits. A list fits where the field is a word of its own: between blanks, and"
            " not after < or >; without a shell, an element of its own."
        )
    if not isinstance(value, str | Number | os.PathLike | _numpy_bool()):
        raise TypeError(
            f"The argument for {{{key}}} is of type {type(value).__name__}. Use a str, a number, a"
            " Path or a bool, or a list or tuple of these."
        )
    text = os.fsdecode(value) if isinstance(value, os.PathLike) else str(value)
    check_text(text, f"The argument for {{{key}}}")
    return text


def _numpy_bool() -> type:
    """The booleans of numpy, if it is imported: its other scalars are numbers or text."""
    return getattr(sys.modules.get("numpy"), "bool_", bool)


def words_of(value: Any, key: int | str) -> list[str]:
    """An argument as words: those of a list or a tuple are several."""
    if isinstance(value, list | tuple):
        return [text_of(one, key) for one in value]
    return [text_of(value, key)]
