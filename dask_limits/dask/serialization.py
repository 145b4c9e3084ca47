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
    views = [buffer.raw() for buffer in buffers]
    return {"readonly": [view.readonly for view in views]}, [pickled, *views]


@dask_deserialize.register(BatchOutcome)  # type: ignore[untyped-decorator]
def _deserialize(header: dict[str, Any], frames: Sequence[Any]) -> BatchOutcome:
    pickled, *views = [memoryview(frame) for frame in frames]
    buffers = [
        view.toreadonly() if readonly else bytearray(view) if view.readonly else view
        for view, readonly in zip(views, header["readonly"], strict=True)
    ]
    outcome: BatchOutcome = pickle.loads(pickled, buffers=buffers)
    return outcome
