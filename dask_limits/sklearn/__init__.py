"""Limits on the fits of scikit-learn's estimators. This needs the extra `sklearn`."""

try:
    from sklearn.utils import get_tags  # noqa: F401  # since 1.6
except ImportError as error:
    raise ImportError(
        "dask_limits.sklearn needs scikit-learn 1.6 or newer: run pip install"
        f" 'dask-limits[sklearn]' ({error})"
    ) from error

from dask_limits.sklearn.limited import Limited

__all__ = ["Limited"]
