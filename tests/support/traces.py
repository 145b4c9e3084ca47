"""What tests of traces share. A call imports this, and OpenTelemetry in its functions alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


class Spans:
    """The spans that have ended in this process."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter

    def all(self, kind: str = "call") -> list[Any]:
        """Those of calls, by their beginnings; or those of their runs."""
        named = [s for s in self._exporter.get_finished_spans() if f"_limits.{kind} " in s.name]
        return sorted(named, key=lambda span: span.start_time)

    def one(self, kind: str = "call") -> Any:
        [span] = self.all(kind)
        return span


@pytest.fixture(name="spans")
def spans_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """A tracer provider is set up in this process."""
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry import trace as api
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    provider, exporter = trace.TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # It can be set once in a process, and other tests are to have none.
    monkeypatch.setattr(api, "_TRACER_PROVIDER", provider)
    yield Spans(exporter)
    provider.shutdown()


def trace_into(file: Path) -> None:
    """Set up a tracer provider that writes spans into a file, a line each."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    class Appending:
        def write(self, text: str) -> None:
            with file.open("a") as out:
                out.write(text)

        def flush(self) -> None:
            pass

    def line(span: Any) -> str:
        return span.to_json(indent=None) + "\n"

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter("", Appending(), line)))
    trace.set_tracer_provider(provider)


def written(file: Path) -> list[dict[str, Any]]:
    """The spans in such a file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def inner(number: int) -> int:
    """A call that makes a span, if a tracer provider is set up in its process."""
    from opentelemetry import trace

    with trace.get_tracer("user").start_as_current_span(f"inner {number}"):
        return number


def parent() -> tuple[str, str]:
    """The trace and the span that a call is part of."""
    from opentelemetry import trace

    return ids(trace.get_current_span())


def ids(span: Any) -> tuple[str, str]:
    """The trace, and the span itself."""
    context = span.get_span_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def parent_of(span: Any) -> tuple[str, str]:
    """The trace of a span, and its parent."""
    return f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}"
