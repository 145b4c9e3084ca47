"""Templates for `/bin/sh -c`, whose fields are filled with quoted words.

A quoted word is one word only where the shell reads quotes: not inside of other quotes, in a
here-document, in arithmetic or in a comment, where a value could even run as code. So a field is
refused wherever that is not certain, also if only bash evaluates it there, which may be /bin/sh.
Source: "Shell Command Language" in POSIX.1-2017, 2.2 to 2.6; bash(1), ARITHMETIC EVALUATION.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dask_limits.commands.template import (
    Field,
    FieldNumbers,
    Part,
    Template,
    argument,
    check_text,
    field_at,
    joined,
    lone_brace,
    text_of,
    words_of,
)

_PARAMETER: Final = re.compile(r"\$\{[^{}\"'`\\()<>]*\}")
"""`${VAR}`, `${VAR:-word}`: what it contains cannot be taken for the end of it."""
_SUBSTITUTION: Final = re.compile(r"\$\((?:[^(){}\"'`\\#<]|\([^(){}\"'`\\#<]*\))*\)")
"""`$(command)` and `$((1 + 2))`, as simple."""
_TEST: Final = re.compile(
    r"\[\[(?=\s)(?:[^{}\"'`\\()#]|\$\{[^{}\"'`\\()<>]*\}|'[^'{}]*'"
    r"|\"(?:[^{}\"`\\(]|\$\{[^{}\"'`\\()<>]*\})*\")*?\s\]\](?=[\s;&|)]|\Z)"
)
"""`[[ "$A" == b ]]`, as simple."""
_OPENS_TEST: Final = re.compile(r"\[\[(?=[\s;&|()<>\\])")
_SUBSCRIPT: Final = re.compile(r"\[[^\s\[\]{}()\"'`\\#<>;&|]*\]")
_DUPLICATION: Final = re.compile(r"[<>]&[ \t]*[\w./$-]+(?=[\s;&|()<>]|\Z)", re.ASCII)
"""`2>&1`. bash takes other words after `>&` for code, even if they are quoted."""
_SPLIT: Final = re.compile(
    r"(?:\$(?:\\\n)+(?!\w)|\((?:\\\n)+\(|\[(?:\\\n)+\[|[<>](?:\\\n)+[<>&])", re.ASCII
)
"""What begins a quotation, arithmetic, ..., over two lines: nobody needs that."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9_@%+:./-]+", re.ASCII)
"""Words that the shell takes as they are, wherever. Those with "=" could be assignments."""
_KEYWORDS: Final = re.compile(
    "case|coproc|do|done|elif|else|esac|fi|for|function|if|in|select|then|time|until|while"
)
_BLANKS: Final = " \t\n;&|()<>"
"""After these, a word may begin."""
_WORD_ENDS: Final = re.compile(r"[ \t\n;&|)<>]|\Z")
_REDIRECTION: Final = re.compile(r"[<>]\|?[ \t]*\Z")
"""What comes after it is the name of a file."""
_BEFORE: Final = re.compile(r"(?:\A|[ \t\n;&|()<>])(?:[A-Za-z0-9_@%+:./=-]|\{\w*\})*\Z", re.ASCII)
_AFTER: Final = re.compile(r"(?:[A-Za-z0-9_@%+:./-]|\{\w*\})*(?:[ \t\n;&|)]|\Z)", re.ASCII)
"""The rest of a word in which a plain value is one, too: not after `$A`, nor before `>` or `=`."""
_NAME: Final = re.compile(r"(?:\A|[ \t\n;&|()<>])[A-Za-z_]\w*\Z", re.ASCII)
_QUOTES: Final = {"'": "single quotes", '"': "double quotes", "`": "backticks"}
_UNDONE: Final = (
    "where its own quotes would be undone. Leave the quotes out, as each value is quoted, or set a"
    ' variable before: x={field}; ... "$x". For a brace write {{{{ or }}}}.'
)
_COMPUTE: Final = "Compute it before, in Python, or by expr."
_EVALUATED: Final = (
    "where bash evaluates even what is quoted, so that a value could run as code. {instead}"
)


class ShellTemplate(Template):
    """A command line for the shell.

    Example:
        >>> ShellTemplate.of("sort -k {key} {files}").fill([], {"key": 1, "files": ["a", "b c"]})
        "sort -k 1 a 'b c'"
    """

    __slots__ = ()

    @classmethod
    def of(cls, text: str) -> ShellTemplate:
        """Parse a command line.

        Raises:
            ValueError: if a brace belongs to no field, a field is where quotes are not read, or
                there is a NUL.
        """
        check_text(text, repr(text))
        return cls(joined(_Reader(text).parts()))

    def fill(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """The command line with its fields filled, each word quoted."""
        return "".join(
            part if isinstance(part, str) else _quoted(part, argument(part.key, args, kwargs))
            for part in self.parts
        )


def _quoted(field: Field, value: Any) -> str:
    words = words_of(value, field.key) if field.is_word else [text_of(value, field.key)]
    return " ".join(quote(word, field.is_bare) for word in words)


def quote(word: str, is_bare: bool = True) -> str:
    """A word as the shell reads it again, wherever it stands.

    `shlex.quote` leaves `a=b`, which in front of a command is an assignment, and keywords.
    """
    if is_bare and _PLAIN.fullmatch(word) and not _KEYWORDS.fullmatch(word):
        return word
    return "'" + word.replace("'", "'\"'\"'") + "'"


class _Reader:
    """Reads a command line from left to right, as far as quotes are concerned."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._quote = ""  # that is open
        self._begins_word = True  # or may do so
        self._is_after_blank = True  # or at the start
        self._open_parameters = 0  # `${`, with more in it than is understood here
        self._refused = ""  # why no field can follow, from here on
        self._hint = _UNDONE  # what to do then

    def parts(self) -> Iterator[Part]:
        numbers = FieldNumbers(self._text)
        while self._at < len(self._text):
            if self._follows("{{", "}}"):
                yield self._take(1, self._at + 2)
            elif self._follows("${{"):
                self._refuse("a ${{, the start of what the shell substitutes")
                yield self._take(1)
            elif self._follows("${"):
                yield self._parameter()
            elif self._follows("{"):
                yield self._field(numbers)
            elif self._follows("}"):
                if not self._open_parameters:
                    raise lone_brace(self._text, self._at)
                self._open_parameters -= 1
                yield self._take(1)
            elif self._quote == "'":
                if self._follows("'"):
                    self._quote = ""
                yield self._take(1)
            elif self._quote == '"':
                yield self._in_double_quotes()
            else:
                yield self._unquoted()

    def _follows(self, *texts: str) -> bool:
        return self._text.startswith(texts, self._at)

    def _take(self, n: int, then: int | None = None) -> str:
        """So many characters; what comes after them is at `then`."""
        taken = self._text[self._at : self._at + n]
        self._at = self._at + n if then is None else then
        self._begins_word = not self._quote and taken[-1:] in _BLANKS
        self._is_after_blank = not self._quote and taken[-1:] in " \t\n"
        return taken

    def _refuse(self, why: str, instead: str = "") -> None:
        if not self._refused:
            self._refused = why
            self._hint = _EVALUATED.replace("{instead}", instead) if instead else _UNDONE

    def _parameter(self) -> str:
        if match := _PARAMETER.match(self._text, self._at):
            return self._take(len(match[0]))
        if self._quote == "'":
            raise lone_brace(self._text, self._at + 1)
        self._refuse("a ${...} with quotes, braces or commands in it")
        self._open_parameters += 1
        return self._take(2)

    def _field(self, numbers: FieldNumbers) -> Field:
        match = field_at(self._text, self._at)
        where, hint = "", _UNDONE
        if self._quote:
            where = f"inside of {_QUOTES[self._quote]}"
        elif self._refused:
            where, hint = f"after {self._refused}", self._hint
        elif self._text[: self._at].endswith("\\"):
            where = "after a backslash"
        if where:
            raise ValueError(
                f"{match[0]} in {self._text!r} is {where}, {hint.format(field=match[0])}"
            )
        before, after = self._before(), _without_continuations(self._text[match.end() :])
        is_word = (
            self._is_after_blank  # not after an operator: without a word, `;{x};` is another one
            and _WORD_ENDS.match(after) is not None
            and _REDIRECTION.search(before) is None
        )
        is_bare = _BEFORE.search(before) is not None and _AFTER.match(after) is not None
        begins_word, _ = self._begins_word, self._take(len(match[0]))
        self._begins_word = begins_word  # as if it were empty
        return Field(numbers.key(match[1]), is_bare, is_word)

    def _before(self) -> str:
        return _without_continuations(self._text[: self._at])

    def _in_double_quotes(self) -> str:
        if _SPLIT.match(self._text, self._at):
            self._refuse("an operator over two lines")
        if self._follows('"'):
            self._quote = ""
            return self._take(1)
        if self._follows('\\"', "\\$", "\\`", "\\\\"):
            return self._take(2)
        if self._follows("$("):
            if match := _SUBSTITUTION.match(self._text, self._at):
                return self._take(len(match[0]))
            self._refuse("a $(...) with quotes or braces in it inside of double quotes")
        elif self._follows("`"):
            self._refuse("backticks")
        return self._take(1)

    def _unquoted(self) -> str:
        if _SPLIT.match(self._text, self._at):
            self._refuse("an operator over two lines")
        if self._follows("\\\n"):
            before = self._begins_word, self._is_after_blank
            taken = self._take(2)
            self._begins_word, self._is_after_blank = before  # as if the two were not there
            return taken
        if self._follows("\\"):
            taken = self._take(1 if self._follows("\\{", "\\}") else 2)
            self._begins_word = self._is_after_blank = False  # it is part of a word
            return taken
        if self._follows("$((", "(("):
            if match := _SUBSTITUTION.match(self._text, self._at):
                return self._take(len(match[0]))
            self._refuse("the start of arithmetic, ((", _COMPUTE)
        elif self._follows("$["):
            self._refuse("the start of arithmetic, $[", _COMPUTE)
        elif self._follows("["):
            return self._bracket()
        elif self._follows("<&", ">&"):
            if match := _DUPLICATION.match(self._text, self._at):
                return self._take(len(match[0]))
            self._refuse("<& or >&", "Write > FILE 2>&1.")
        elif self._follows("$'"):
            self._refuse("$'...'")
        elif self._follows("<<"):
            self._refuse("a here-document, <<")
        elif self._follows("`"):
            self._refuse("backticks")
        elif self._follows("#") and self._begins_word:
            self._refuse("a comment, #")
        elif self._follows("'", '"'):
            self._quote = self._text[self._at]
        return self._take(1)

    def _bracket(self) -> str:
        """`[`, a pattern such as `[a-z]`, `[[ ... ]]`, or the subscript of an array."""
        if self._begins_word and _OPENS_TEST.match(self._text, self._at):
            if match := _TEST.match(self._text, self._at):
                return self._take(len(match[0]))
            self._refuse("the start of a test, [[", "Write [ ... ], as in [ {field} -gt 3 ].")
        elif _NAME.search(self._before()) or (self._begins_word and "=(" in self._before()):
            if match := _SUBSCRIPT.match(self._text, self._at):
                return self._take(len(match[0]))
            self._refuse("the start of the subscript of an array, [", _COMPUTE)
        return self._take(1)


def _without_continuations(text: str) -> str:
    """What the shell reads: it joins lines before it looks for words."""
    return text.replace("\\\n", "")
