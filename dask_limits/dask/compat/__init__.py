"""The undocumented names of dask, distributed, dask-jobqueue and joblib that dask_limits uses.

Each file has the names of one subject as a table, and the functions that use them. A test finds
such names anywhere else in the package, and another one that a name of the table is missing.

Nothing here imports Dask at its top: task processes import `joblib`.
"""
