"""docs/grafana.json asks for metrics that `/metrics` has."""

from __future__ import annotations

import importlib.util
import json
import re
import urllib.request
from typing import Any

from clusters import SETTINGS
from distributed import Client, LocalCluster
from pages import ROOT
from required import need

from dask_limits import LimitsWorkerPlugin, annotate


def values(part: Any, name: str) -> list[str]:
    """All texts of this name in a part of the file."""
    if isinstance(part, dict):
        own = [one for key, one in part.items() if key == name and isinstance(one, str)]
        return own + [text for one in part.values() for text in values(one, name)]
    return [text for one in part for text in values(one, name)] if isinstance(part, list) else []


def test_each_query_names_metrics_and_labels_that_there_are() -> None:
    need(importlib.util.find_spec("prometheus_client"), "prometheus_client")
    board = json.loads((ROOT / "docs" / "grafana.json").read_text())
    queries = [*values(board, "expr"), *values(board["templating"], "query")]
    asked = {name for query in queries for name in re.findall(r"dask_limits_\w+", query)}
    with (
        LocalCluster(n_workers=1, processes=False, **SETTINGS) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(LimitsWorkerPlugin())
        with annotate(wall_time=60):
            assert client.submit(pow, 2, 3).result(timeout=60) == 8
        port = cluster.scheduler.http_server.port  # all is in one process
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            text = page.read().decode()
    there = set(re.findall(r"^(dask_limits_\w+)", text, re.MULTILINE))
    assert asked <= there
    labels = {one for query in queries for one in re.findall(r"\b(\w+)(?:=~|!~|=)\"", query)}
    labels |= {one for query in queries for by in re.findall(r"by \((.*?)\)", query)
               for one in by.split(", ")}  # fmt: skip
    assert labels == {"function", "ending", "le"}
    assert all(f'{label}="' in text for label in labels)
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids) >= 10
