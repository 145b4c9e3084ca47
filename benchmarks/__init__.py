"""What dask_limits costs, beside other libraries: `python -m benchmarks --help`.

A row is a thing that is measured: ours and its peers, in turn, each time in a process of its own
(`side.py`), so that nobody's imports, threads or idle processes are beside another's. All rows are
in `rows/`: a new one is a function that returns a figure, and a `Row` in the list of its file.
"""
