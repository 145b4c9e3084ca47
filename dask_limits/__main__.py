"""`python -m dask_limits` is `dask-limits`."""

from dask_limits.cli import main

if __name__ == "__main__":
    main(prog_name="dask-limits")
