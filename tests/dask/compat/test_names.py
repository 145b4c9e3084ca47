"""The installed versions have every undocumented name that dask_limits uses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dask_limits.dask.compat import client
from dask_limits.dask.compat.all_names import dask_names
from dask_limits.dask.compat.undocumented_name import TESTED, Name


@pytest.mark.parametrize("name", dask_names(), ids=lambda name: name.path)
def test_the_installed_version_has_it(name: Name) -> None:
    assert name.is_there, f"{name.path} is gone. Without it: {name.without}"


def test_each_name_is_in_the_table_once() -> None:
    paths = [name.path for name in dask_names()]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize(
    "path",
    [
        "distributed.worker:_run_no_task",
        "distributed.client:Client._handle_no_report_task",
        "distributed.no_such_module:Thing",
        "dask.delayed:Delayed.key.no_such",
    ],
)
def test_a_name_that_is_gone_is_missed(path: str) -> None:
    gone = Name("distributed", path, "to test this", "2021.1", "Nothing happens.")
    assert gone.is_there is False
    assert gone.find() is None
    with pytest.raises(ImportError) as caught:
        gone.get()
    oldest, newest = TESTED["distributed"]
    assert path in str(caught.value)
    assert f"distributed {oldest} to {newest}" in str(caught.value)


def test_a_name_of_a_package_that_is_not_installed_is_neither_there_nor_gone() -> None:
    absent = Name("joblib", "no_such_package.parallel:BACKENDS", "to test this", "1", "Nothing.")
    assert absent.is_there is None


@pytest.mark.parametrize("path", client._CLIENT)
def test_a_client_that_lacks_a_name_is_refused_with_the_versions_that_work(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Name("distributed", "distributed.client:Client.gone", "to test this", "1", "Nothing.")
    monkeypatch.setitem(client._CLIENT, path, gone)
    with pytest.raises(ImportError, match=r"Install a version that works: distributed 20"):
        client.status_of(SimpleNamespace(status="running"))
