"""A small AutoML search, which `dask-limits search` runs. It uses the public API alone.

`random_search` is the search itself: copy it to start your own. `pipelines` is its search space,
`data` its data set, `report` and `files` are its output.
"""
