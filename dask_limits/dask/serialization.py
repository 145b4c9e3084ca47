"""How Dask sends and spills the outcome of a batch: large buffers as they are, without a copy.

By itself it would pickle an outcome by protocol 4, which copies them, on each connection with its
scheduler. Whoever sends or receives outcomes imports this.

Source: https://distributed.dask.org/en/stable/serialization.html#dask-serialization-family
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from distributed.protocol import dask_deserialize, dask_serialize

from dask_limits.dask.batch import BatchOutcome


@dask_serialize.register(BatchOutcome)  # type: ignore[untyped-decorator]
def _serialize(outcome: BatchOutcome) -> tuple[dict[str, Any], list[Any]]:
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(outcome, 5, buffer_callback=buffers.append)
    return {}, [pickled, *(buffer.raw() for buffer in buffers)]


@dask_deserialize.register(BatchOutcome)  # type: ignore[untyped-decorator]
def _deserialize(_: dict[str, Any], frames: Sequence[Any]) -> BatchOutcome:
    pickled, *buffers = [memoryview(frame) for frame in frames]
    outcome: BatchOutcome = pickle.loads(pickled, buffers=buffers)
    return outcome
