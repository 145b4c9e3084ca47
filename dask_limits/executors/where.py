"""What says where calls are to run, in any form."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Integral
from typing import Any, Final

from dask_limits.batch_systems.systems import CLUSTERS
from dask_limits.executors import factories
from dask_limits.executors.factories import ExecutorFactory
from dask_limits.limits.owner.preload import Preload

_DASK: Final = "dask"
_OPTIONS_OF_DASK: Final[Mapping[str, Any]] = {"security": None, "batch": True}
_OPTIONS_OF_PROCESSES: Final[Mapping[str, Any]] = {"max_calls_per_process": None, "reserve": True}
_PLACES: Final = (
    "Use a number of processes of this machine, or None for one for each CPU; a Dask Client or"
    ' Cluster, the address of a Dask scheduler ("tcp://host:8786"), or "dask" for a new cluster on'
    f" this machine; a batch system ({', '.join(map(repr, CLUSTERS))}); or any"
    " concurrent.futures.Executor (ThreadPoolExecutor, loky, ...)"
)


def factory_for(where: Any, preload: Preload, options: Mapping[str, Any]) -> ExecutorFactory:
    """Return the factory of executors for what says where calls are to run, in any form.

    That is what `factory_of` takes, a number of processes or None, the address of a Dask scheduler,
    "dask", or a batch system. The options are those of the function of `factories` that makes it.

    Raises:
        TypeError: for something of another type, or an option that there is not.
        ValueError: for a str that is none of these, or an invalid option.

    Example:
        >>> from dask_limits.limits.owner.preload import NOTHING
        >>> factory_for(2, NOTHING, {"max_calls_per_process": 100}).name
        '2 processes'
    """
    if isinstance(where, str) and ":" not in where:
        return _by_name(where, preload, dict(options))
    known: Mapping[str, Any]
    make: Callable[..., ExecutorFactory]
    if where is None or isinstance(where, Integral):
        workers: Any = where  # `processes` checks it
        of, known = "processes of this machine", _OPTIONS_OF_PROCESSES
        make = partial(factories.processes, workers)
    elif isinstance(where, str) or factories.is_dask(where, "Client", "Cluster"):
        of, known = "a Dask cluster that is there already", _OPTIONS_OF_DASK
        make = partial(factories.dask, where, None)
    else:
        of, known = "an executor that is there already", {}
        make = partial(factories.factory_of, where, accepted=_PLACES)
    _check_options(options, of, known)
    return make(preload=preload, **{**known, **options})


def _by_name(name: str, preload: Preload, options: dict[str, Any]) -> ExecutorFactory:
    if name == _DASK:
        given = {"n_workers": None, **_OPTIONS_OF_DASK, **options}
        return factories.dask(None, **given, preload=preload)
    if name in CLUSTERS:
        batch = options.pop("batch", True)
        return factories.jobqueue(name, options, preload, batch)
    if name.isdecimal():
        raise ValueError(f"Calls cannot run on {name!r}. Did you mean the number {name}?")
    close = difflib.get_close_matches(name.lower(), [_DASK, *CLUSTERS], 1)
    did_you_mean = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"Calls cannot run on {name!r}.{did_you_mean} {_PLACES}.")


def _check_options(options: Mapping[str, Any], of: str, known: Mapping[str, Any]) -> None:
    for name in sorted(options.keys() - known.keys()):
        text = f"{name!r} is no option of {of}: "
        text += f"the options are {' and '.join(map(repr, known))}" if known else "it has none"
        close = difflib.get_close_matches(name, known, 1)
        raise TypeError(text + (f". Did you mean {close[0]!r}?" if close else "."))
