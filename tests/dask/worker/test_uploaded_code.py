"""After `client.upload_file`, calls with limits run the code that other Dask tasks run."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import SETTINGS, nothing_is_left_behind
from distributed import Client, LocalCluster

from dask_limits import LimitsWorkerPlugin, annotate

__all__ = ["nothing_is_left_behind"]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    cluster = LocalCluster(n_workers=1, threads_per_worker=2, **SETTINGS)
    with cluster, Client(cluster) as client:
        client.register_plugin(LimitsWorkerPlugin())
        yield client


def ask(name: str) -> int:
    answer: int = importlib.import_module(name).answer()
    return answer


def upload(client: Client, folder: Path, name: str, kind: str, number: int) -> None:
    text = f"def answer():\n    return {number}\n"
    if kind == "zip":
        path = folder / f"{name}_archive.zip"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(f"{name}.py", text)
    else:
        path = folder / f"{name}.py"
        path.write_text(text)
    client.upload_file(str(path))


@pytest.mark.parametrize("isolation", ["clean", "warm", "fresh"])
@pytest.mark.parametrize("kind", ["module", "zip"])
def test_calls_run_what_was_uploaded_last(
    client: Client, tmp_path: Path, kind: str, isolation: str
) -> None:
    name = f"uploaded_{kind}_{isolation}"
    for number in (1, 22, 333):
        upload(client, tmp_path, name, kind, number)
        plain = client.submit(ask, name, pure=False).result()
        with annotate(wall_time=60, isolation=isolation):
            limited = client.submit(ask, name, pure=False).result()
        assert limited == plain
