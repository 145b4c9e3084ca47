"""What `/metrics` of Dask's scheduler and workers shows of limited calls.

Dask serves that page if prometheus_client is installed. It shows all that is registered with it.
Names and units: https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from dask_limits.limits import call_metrics


class Gauge(NamedTuple):
    """A figure of the page. Those of the same name are added up; infinite ones are left out."""

    name: str
    description: str
    value: float


Source = Callable[[], Iterable[Gauge]]


class _Collector:
    """What prometheus_client asks for the metrics of this process."""

    def __init__(self) -> None:
        self.sources: dict[object, Source] = {}

    def describe(self) -> Iterable[Any]:
        """The names are known only when there are sources."""
        return ()

    def collect(self) -> Iterator[Any]:
        """All metrics of the calls in this process, and of the sources."""
        from prometheus_client.core import GaugeMetricFamily

        if self.sources:
            yield from _of_calls(call_metrics.keep())
        gauges: dict[str, Gauge] = {}
        for source in list(self.sources.values()):
            for one in source():
                before = gauges.get(one.name)
                value = one.value + (0 if before is None else before.value)
                gauges[one.name] = Gauge(one.name, one.description, value)
        for name, description, value in gauges.values():
            if value < math.inf:
                yield GaugeMetricFamily(name, description, value=value)


_collector: Final = _Collector()
_is_registered = False


def publish(of: object, source: Source) -> None:
    """Show these figures too, from now on, and count calls; nothing without prometheus_client."""
    global _is_registered
    if importlib.util.find_spec("prometheus_client") is None:
        return
    import prometheus_client

    call_metrics.keep()
    _collector.sources[of] = source
    if not _is_registered:
        _is_registered = True
        prometheus_client.REGISTRY.register(_collector)


def withdraw(of: object) -> None:
    """Show them no more. It does no harm to repeat this."""
    _collector.sources.pop(of, None)


def _of_calls(metrics: call_metrics.CallMetrics) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    calls = CounterMetricFamily(
        "dask_limits_calls",
        "Limited calls that have ended, by function and ending.",
        labels=["function", "ending"],
    )
    for (function, ending), n in list(metrics.ended.items()):
        calls.add_metric([function, ending], n)
    yield calls
    for name, description, histograms in (
        ("call_wall_time_seconds", "Wall time of limited calls.", metrics.wall_times),
        ("call_peak_memory_bytes", "Peak memory of limited calls.", metrics.peak_memories),
    ):
        family = HistogramMetricFamily(f"dask_limits_{name}", description, labels=["function"])
        for function, histogram in list(histograms.items()):
            family.add_metric([function], histogram.buckets(), histogram.sum)
        yield family
    yield CounterMetricFamily(
        "dask_limits_reruns",
        "Calls that ran again because their worker or guardian was lost.",
        value=metrics.reruns,
    )
