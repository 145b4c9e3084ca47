"""Optuna's studies, whose trials run under limits. Optuna is imported when it is used."""

from dask_limits.optuna.optimization import optimize

__all__ = ["optimize"]
