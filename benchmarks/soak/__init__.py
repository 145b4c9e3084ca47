"""A soak: calls that also breach, crash and are cancelled, while the processes below are killed.

`python -m benchmarks.soak --help`. What each call does, what is killed and when follow from a seed.
A soak fails if a call is told of twice or never, if it ends otherwise than its kind can end, or if
something grows: memory, open files or threads of a process, or the number of processes.
"""
