"""How a running call asks the driver something, and gets an answer.

A question is bytes that the driver does not unpickle; an answer is a pickle, as the call trusts its
driver. On one machine both pass through a local socket; on Dask, from the worker on, through Dask's
own connections, so that no port is open for it.
"""
