"""Commands as picklable callables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Never

from dask_limits.commands.output import Output
from dask_limits.commands.result import CommandResult
from dask_limits.commands.run import Program, run
from dask_limits.commands.shell import ShellTemplate
from dask_limits.commands.template import Field, Template, argument, words_of
from dask_limits.instead import refuse
from dask_limits.limits import LimitsArguments
from dask_limits.printable import printable

_LIMITED: Final = "limits go around it, as in limit(command(...), {name}={{value!r}})"
_ELSEWHERE: Final = {
    **{name: _LIMITED.format(name=name) for name in LimitsArguments.__annotations__},
    "timeout": _LIMITED.format(name="wall_time"),
    "check": "an exit code other than 0 is a CommandExitError",
    "shell": "a string goes to the shell, a list does not",
    "capture_output": "its calls return their output, as .stdout and .stderr",
    "input": "stdin={value!r} has bytes, or the name of a file",
    "stdout": "output={value!r} has the name of a file",
}
"""What `subprocess.run` has, and limits."""
_EMPTY: Final = "The command is empty"
_PROGRAM: Final = re.compile(r"[\w.+-]+", re.ASCII)


def command(
    template: str | Sequence[str | os.PathLike[str] | float],
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | os.PathLike[str] | bytes | None = None,
    output: str | os.PathLike[str] | None = None,
    **_unknown: Never,
) -> Command:
    r"""Make a callable of a command line, to put limits on or to make a task of.

    Limits hold for all that the command starts. In the template, and in `cwd`, the values of
    `env`, `stdin` and `output`, `{name}` is the keyword argument of that name of each call, and
    `{}` or `{0}`, `{1}` are positional arguments; `{{` and `}}` are braces.

    Args:
        template: A string is for `/bin/sh -c`; each value in it is quoted, so that it is one word
            whatever it contains. A list or tuple is several words, or none, for a field between
            blanks. `${VAR}` is the shell's. A list is a program and its arguments, without a
            shell; an element that is one field, with a list as its value, is several arguments.
            Values are text, numbers, paths, booleans, and lists and tuples of these.
        cwd: The folder to run it in. By default, that of the process of the call.
        env: Variables to add to the environment.
        stdin: The name of a file, or bytes, for its standard input. By default, that is empty.
        output: The name of a file for standard output. Standard error goes to the same name with
            ".err" in place of ".out", or after any other ending; to the same file, if that is a
            device, such as "/dev/null". Both are written by the command itself, and are there
            however it ends. Missing folders are made. Pipes, and what this process has open, as
            "/dev/stdout", are refused. Here, a value must not have a "/",
            unless it is a `Path`.

    Returns:
        A picklable callable. It returns a [CommandResult][dask_limits.CommandResult], and raises a
        [CommandExitError][dask_limits.exceptions.CommandExitError] for an exit code other than 0,
        a [CommandCrashError][dask_limits.exceptions.CommandCrashError] for a signal, a TypeError
        for missing or unknown arguments and those of a wrong type, and a ValueError for text that
        does not fit.

    Raises:
        ValueError: for a brace that belongs to no field, a NUL, or a field inside of quotes,
            backticks, arithmetic, `[[ ... ]]` or a comment of the shell, or after a here-document,
            where quotes would be undone.
        TypeError: if an argument has the wrong type.

    Example:
        >>> from dask_limits import command, limit
        >>> greet = limit(command("echo hello {name}"), wall_time=10, memory="100 MiB")
        >>> greet(name="a; b").stdout
        'hello a; b\n'
        >>> limit(command("exit {}"), wall_time=10)(3)
        Traceback (most recent call last):
        dask_limits.exceptions.CommandExitError: exit 3: exit code 3
    """
    refuse("command()", _unknown, ["cwd", "env", "stdin", "output"], _ELSEWHERE)
    return Command(template, cwd, env, stdin, output)


class Command:
    """A command line with fields, as a picklable callable. See [command][dask_limits.command].

    Attributes:
        template: What it was made of.
        fields: The names and positions of all arguments.
    """

    def __init__(
        self,
        template: str | Sequence[str | os.PathLike[str] | float],
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | os.PathLike[str] | bytes | None = None,
        output: str | os.PathLike[str] | None = None,
    ) -> None:
        self.template = template
        self._words: ShellTemplate | tuple[Template, ...] = _words(template)
        self._cwd = None if cwd is None else _path_template("cwd", cwd)
        self._env = _environment(env)
        self._stdin = stdin if stdin is None or isinstance(stdin, bytes) else _stdin(stdin)
        self._output = None if output is None else Output(_path_template("output", output))
        self.fields = self._all_fields()
        self.__name__ = _name_of(template)

    def __call__(self, *args: Any, **kwargs: Any) -> CommandResult:
        """Run the command with its fields filled, and wait for its end."""
        self._check(args, kwargs)

        def fill(template: Template) -> str:
            return template.fill(args, kwargs)

        return run(
            Program(
                words=self._argv(args, kwargs),
                cwd=None if self._cwd is None else fill(self._cwd),
                env={name: fill(value) for name, value in self._env.items()},
                stdin=fill(self._stdin) if isinstance(self._stdin, Template) else self._stdin,
                output=None if self._output is None else self._output.files(args, kwargs),
            )
        )

    def line(self, *args: Any, **kwargs: Any) -> str | list[str]:
        """The command line that a call with these arguments runs.

        Example:
            >>> Command("gzip -k {}").line("a b.txt")
            "gzip -k 'a b.txt'"
        """
        self._check(args, kwargs)
        return self._argv(args, kwargs)

    def _argv(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | list[str]:
        if isinstance(self._words, ShellTemplate):
            return self._words.fill(args, kwargs)
        argv: list[str] = []
        for word in self._words:
            if len(word.parts) == 1 and isinstance(field := word.parts[0], Field):
                argv += words_of(argument(field.key, args, kwargs), field.key)
            else:
                argv.append(word.fill(args, kwargs))
        if not argv:
            raise ValueError(_EMPTY)
        return argv

    def _all_fields(self) -> frozenset[int | str]:
        words = [self._words] if isinstance(self._words, ShellTemplate) else self._words
        others = (self._cwd, self._stdin, self._output and self._output.template)
        templates = [*words, *self._env.values(), *(t for t in others if isinstance(t, Template))]
        return frozenset(p.key for t in templates for p in t.parts if isinstance(p, Field))

    def _check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        given = {*range(len(args)), *kwargs}
        if given == self.fields:
            return
        missing, unknown = self.fields - given, given - self.fields
        wrong = [f"no argument for {_list(missing)}"] if missing else []
        wrong += [f"no field for the argument {_list(unknown)}"] if unknown else []
        raise TypeError(f"{self!r} has {' and '.join(wrong)}")

    def __repr__(self) -> str:
        return f"command({self.template!r})"


def _list(keys: frozenset[int | str] | set[int | str]) -> str:
    return ", ".join(f"{{{key}}}" for key in sorted(keys, key=str))


def _words(template: Any) -> ShellTemplate | tuple[Template, ...]:
    if isinstance(template, str):
        if not template.strip():
            raise ValueError(_EMPTY)
        return ShellTemplate.of(template)
    if not isinstance(template, list | tuple):
        raise TypeError(
            f"{template!r} is of type {type(template).__name__}, and no command: use a string for"
            ' the shell, or a list such as ["gzip", "{}"]'
        )
    if not template:
        raise ValueError(_EMPTY)
    words = []
    for word in template:
        if isinstance(word, bool) or not isinstance(word, str | os.PathLike | int | float):
            raise TypeError(
                f"{word!r} in {template!r} is of type {type(word).__name__}. Use text, paths and"
                " numbers."
            )
        words.append(Template.of(os.fspath(word) if isinstance(word, os.PathLike) else str(word)))
    return tuple(words)


def _path_template(name: str, value: Any) -> Template:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise TypeError(f"{name}={value!r} is of type {type(value).__name__}. Use a str or a Path.")
    if not value:
        raise ValueError(f'{name}="" names no file')
    return Template.of(value)


def _stdin(value: Any) -> Template:
    try:
        return _path_template("stdin", value)
    except TypeError:
        raise TypeError(
            f"stdin={value!r} is of type {type(value).__name__}. Use the name of a file, or bytes."
        ) from None


def _environment(env: Any) -> dict[str, Template]:
    if env is None:
        return {}
    if not isinstance(env, Mapping):
        raise TypeError(f"env={env!r} is of type {type(env).__name__}. Use a dict.")
    for name, value in env.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise TypeError(f"env has {name!r}: {value!r}. Names and values must be strings.")
        if not name or "=" in name or "\0" in name:
            raise ValueError(f"env has {name!r}, which no variable can be called")
    return {name: Template.of(value) for name, value in env.items()}


def _name_of(template: str | Sequence[Any]) -> str:
    """The name of the program, for reports and messages."""
    first = template.split() if isinstance(template, str) else list(map(str, template))
    name = os.path.basename(first[0])  # noqa: PTH119  # it is no path, if it is a template
    return printable(name) if _PROGRAM.fullmatch(name) else "command"
