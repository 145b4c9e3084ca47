"""`dask-limits check`: what a machine can enforce, and how well, found out by trying."""
