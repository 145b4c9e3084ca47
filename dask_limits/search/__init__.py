"""An AutoML search in the small: what `dask-limits search` runs, on the public API alone.

`random_search` is the search itself, the file to start one's own from. `pipelines` is what it
chooses from, `data` what it learns from; `report`, `files` and `interrupts` are for its user.
"""
