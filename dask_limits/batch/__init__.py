"""Many commands, each under limits of its own: what `dask-limits batch` runs."""
