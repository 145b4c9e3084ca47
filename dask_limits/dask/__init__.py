"""Limits on Dask: a folder for each process that code runs in, and here what they share.

It imports nothing: `nodes` and `packed` are imported by task processes, for which Dask would take
too long.
"""
