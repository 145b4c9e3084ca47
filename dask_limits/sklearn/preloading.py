"""Has task processes import what fits need before fits come.

Otherwise the first fit of each kind pays for it, a second and 100 MiB, and a search would score the
first of its candidates by that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from dask_limits.limits.owner.preload import NOTHING, Preload
from dask_limits.limits.task.imports import is_users, spec_of

_ours = NOTHING


def preload_modules_of(estimator: Any, data: Iterable[Any]) -> None:
    """Have the modules of estimators and data preloaded, if they are of installed packages.

    This adds to those of earlier fits. What the user has preloaded stays as it is.
    """
    global _ours
    from dask_limits.limits.owner.guardian import default_guardian  # not needed in task processes

    guardian = default_guardian()
    if guardian.preload not in (NOTHING, _ours):
        return
    things = (*_estimators_in(estimator), *data)
    bases = {_part_of(base.__module__) for thing in things for base in type(thing).__mro__}
    needed = {"dask_limits.sklearn", *filter(_is_installed, bases)}
    if not needed.issubset(_ours.modules):
        needed |= {*_ours.modules, *_parts_of_scikit_learn()}
        _ours = Preload.of(sorted(needed))
    guardian.preload = _ours


def _estimators_in(estimator: Any) -> Iterator[Any]:
    yield estimator
    for value in estimator.get_params().values():
        if hasattr(value, "get_params"):
            yield value


def _part_of(module: str) -> str:
    """The part of a package that imports a module: `sklearn.svm`, of `sklearn.svm._classes`."""
    return ".".join(module.split(".")[:2])


def _parts_of_scikit_learn() -> Iterator[str]:
    """What of it the program has imported: fits to come are likely to need that."""
    for name in list(sys.modules):
        is_part = name.startswith("sklearn.") and name.count(".") == 1 and "._" not in name
        if is_part and getattr(spec_of(name), "submodule_search_locations", None):
            yield name


def _is_installed(module: str) -> bool:
    """Whether a module can be imported in another process, and is not of the user's own."""
    origin = getattr(spec_of(module), "origin", None)
    if module == "__main__":  # which loky's workers run from a file of their own
        return False
    return module in sys.modules and isinstance(origin, str) and not is_users(origin)
