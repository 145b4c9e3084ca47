"""What a journal knows a call by: its task, its arguments, and the version of its function."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from dask_limits.journal.code import version_of
from dask_limits.journal.content import content_of, digest_of
from dask_limits.limits import LimitedCall
from dask_limits.limits.tracebacks import say

_ATOMS: Final = frozenset({type(None), bool, float, complex, str, bytes})
"""Types whose `repr` tells all there is, in every process."""


_MOST_WRAPPERS: Final = 20


class NoIdentityError(Exception):
    """The arguments of a call have no hash that another process would find again."""


class Function(NamedTuple):
    """The function of a call.

    Attributes:
        version: That of its code.
        name: Its qualified name.
        given: What a partial or an object gives to it, its defaults, and plain values that it
            closes over.
        owner: The object whose method it is, in a tuple.
    """

    version: str
    name: str
    given: tuple[Any, ...] = ()
    owner: tuple[Any, ...] = ()


def identity_of(
    task: str,
    version: str,
    key: str | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    function: Function,
) -> bytes:
    """16 bytes that are the same for the same call in every process.

    Args:
        task: The name of the task.
        version: That under which its function is known.
        key: What the user knows the call by, in place of its arguments and of the object whose
            method it is.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        function: What is called.

    Raises:
        NoIdentityError: if one of these has no such hash.
    """
    arguments = (args, dict(kwargs), function.owner) if key is None else key
    text = f"{task}\0{version}\0{function.name}\0{_text(arguments)}\0{_text(function.given)}"
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def _text(value: Any) -> str:
    try:
        if (plain := _plain(value)) is not None:
            return plain
    except RecursionError:  # it holds itself
        pass
    try:
        return f"content {digest_of(value).hex()}"
    except Exception as error:  # an object may do anything when it is taken apart
        raise NoIdentityError(say(error)) from error


def _plain(value: Any) -> str | None:
    """A text that tells what a value of plain types is; None for others."""
    kind = type(value)
    if kind is int:
        return f"int {value:x}"  # repr() refuses thousands of digits
    if kind in _ATOMS:
        return repr(value)
    if kind is tuple or kind is list:
        parts = [_plain(one) for one in value]
        return None if None in parts else f"{kind.__name__}({','.join(parts)})"  # type: ignore[arg-type]
    if kind is dict and all(type(name) is str for name in value):
        texts = [_plain(value[name]) for name in sorted(value)]
        if None in texts:
            return None
        return f"dict({','.join(f'{n!r}:{t}' for n, t in zip(sorted(value), texts, strict=True))})"
    return None


def function_of(fn: Callable[..., Any]) -> Function:
    """Split what is called into a function, whose version can change, and what it was given."""
    given: list[Any] = []
    owner: list[Any] = []
    while True:
        if isinstance(fn, LimitedCall):
            fn = fn.fn
        elif isinstance(fn, functools.partial):
            given += [fn.args, fn.keywords]
            fn = fn.func
        elif isinstance(fn, types.MethodType):
            owner.append(fn.__self__)
            fn = fn.__func__
        elif not isinstance(fn, types.FunctionType) and callable(_wrapped_by(fn)):
            fn = _wrapped_by(fn)  # by functools.lru_cache and the like
        else:
            break
    name = getattr(fn, "__qualname__", "")
    if isinstance(fn, types.FunctionType):
        given += _of_function(fn)
        return Function(_version_of(fn), name, tuple(given), tuple(owner))
    if isinstance(fn, types.BuiltinMethodType) and not isinstance(fn.__self__, types.ModuleType):
        owner.append(fn.__self__)
    if isinstance(fn, type | types.BuiltinFunctionType):
        return Function("", name, tuple(given), tuple(owner))
    call = getattr(type(fn), "__call__", None)  # noqa: B004  # its code is looked at
    version = _version_of(call) if isinstance(call, types.FunctionType) else ""
    return Function(version, type(fn).__qualname__, (*given, fn), tuple(owner))


def _wrapped_by(fn: Any) -> Any:
    return None if isinstance(fn, type) else getattr(fn, "__wrapped__", None)


def _version_of(fn: types.FunctionType) -> str:
    """The version of a function, and of those that it is a wrapper of."""
    versions = [version_of(fn.__code__, fn.__doc__)]
    while isinstance(fn := _wrapped_by(fn), types.FunctionType) and len(versions) < _MOST_WRAPPERS:
        versions.append(version_of(fn.__code__, fn.__doc__))
    return "+".join(versions)


def _of_function(fn: types.FunctionType) -> Iterator[object]:
    """The default values of a function, and the plain ones of what it closes over."""
    if fn.__defaults__:
        yield fn.__defaults__
    if fn.__kwdefaults__:
        yield fn.__kwdefaults__
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        value = content_of(cell)
        if type(value) in _ATOMS or type(value) is int:
            yield name, value
