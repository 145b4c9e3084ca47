"""How Dask sends and spills outcomes of batches, and what calls share: without a copy.

By itself it would pickle an outcome by protocol 4, which copies large buffers, on each connection
with its scheduler. Whoever sends or receives either imports this.

Source: https://distributed.dask.org/en/stable/serialization.html#dask-serialization-family
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from distributed.protocol import dask_deserialize, dask_serialize

from dask_limits.dask.batch import BatchOutcome
from dask_limits.limits.shared import Shared


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


@dask_serialize.register(Shared)  # type: ignore[untyped-decorator]
def _serialize_shared(shared: Shared) -> tuple[dict[str, Any], list[Any]]:
    return {}, [*shared.file.parts]


@dask_deserialize.register(Shared)  # type: ignore[untyped-decorator]
def _deserialize_shared(_: dict[str, Any], frames: Sequence[Any]) -> Shared:
    return Shared.of_parts(frames)  # from here on task processes map it
