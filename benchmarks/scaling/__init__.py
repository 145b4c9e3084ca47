"""What placing costs on a real Dask scheduler, by the number of workers and of waiting calls.

`python -m benchmarks.scaling --help`. There are three processes: the driver, with a client and a
`Scheduler` of ours; Dask's scheduler, with our plugin, whose own time is measured there; and one
that holds all workers. These are real ones of Dask, without nannies and with our plugin, but their
calls run nowhere: each ends after its time, by the clock of the event loop. So there can be a
thousand of them.
"""
