"""The page `/limits` of Dask's dashboard, in a real browser, with a live cluster."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Page, browser, install
from clusters import SETTINGS, nothing_is_left_behind  # noqa: F401
from distributed import Client, LocalCluster
from noting import run_until
from overdoing import wait_on
from processes import until
from required import need
from stepping import grow_by_steps

from dask_limits import LimitsWorkerPlugin, limit
from dask_limits.executors.dask.executor import DaskExecutor

pytestmark = pytest.mark.dask

BAR = ".limits-bar"
STACKS = "details"
FUNCTIONS = ".slick-row .r1"
"""The functions of running calls."""
EVIL = "<script>window.wrong = 1</script><img src=x onerror='window.wrong = 1'>$$x$$"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    for package in ("bokeh", "selenium"):
        need(importlib.util.find_spec(package), package)
    install()
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=2, memory_limit="4 GiB", **SETTINGS
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(LimitsWorkerPlugin())
        yield client


@pytest.fixture
def executor(client: Client) -> Iterator[DaskExecutor]:
    with DaskExecutor(client) as executor:
        yield executor


@pytest.fixture
def limits_page(page: Page, client: Client) -> Iterator[Page]:
    """The page, just opened. Nothing on it may fail."""
    page.open(client.dashboard_link.replace("/status", "/limits"))
    yield page
    page.expect_clean()


def breach(executor: DaskExecutor) -> None:
    assert executor.submit(limit(wait_on, wall_time=0.3)).exception(timeout=60)


def test_the_menu_of_each_page_leads_there(page: Page, client: Client) -> None:
    page.open(client.dashboard_link)
    [link] = [one for one in page.all(".navbar a") if one.text == "Limits"]
    link.click()
    page.wait_for("Running calls", "h3")
    assert page.driver.title == "Dask: Limits"
    assert page.driver.current_url.endswith("/limits")
    page.expect_clean()


def test_the_bar_of_a_running_call_grows(limits_page: Page, executor, tmp_path: Path) -> None:
    (tmp_path / "1").touch()
    future = executor.submit(limit(grow_by_steps, memory="100 MiB", wall_time=50), tmp_path)

    def width() -> float:
        """Of the bar of its memory."""
        texts, widths = limits_page.texts(BAR), limits_page.widths(f"{BAR} > div")
        found = [
            width
            for text, width in zip(texts, widths, strict=False)
            if re.search(r"MiB of 100\.0 MiB", text)
        ]
        return found[0] if found else 0

    until(lambda: 15 <= width() <= 60, 30, lambda: limits_page.texts(BAR))
    for number in range(2, 9):
        (tmp_path / str(number)).touch()
    until(lambda: width() >= 150, 30, lambda: limits_page.texts(BAR))
    limits_page.wait_for("of 50 s", BAR)
    limits_page.wait_for("grow_by_steps", ".slick-cell")
    (tmp_path / "end").touch()
    future.result(timeout=60)
    until(lambda: not any("of 50 s" in text for text in limits_page.texts(".slick-row .r3")))


def test_reservations_are_shown_against_the_room(limits_page: Page, executor, tmp_path) -> None:
    go, runs = tmp_path / "go", tmp_path / "runs"
    future = executor.submit(limit(run_until, memory="3 GiB"), go, runs)
    limits_page.wait_for("3.0 GiB of 4.0 GiB", BAR)
    limits_page.wait_for("1 of 2", BAR)
    go.touch()
    future.result(timeout=60)
    until(lambda: not any("3.0 GiB of 4.0" in text for text in limits_page.texts(BAR)))


def test_a_breach_arrives_and_an_unfolded_stack_stays_unfolded(limits_page, executor) -> None:
    breach(executor)
    limits_page.wait_for("wait_on() went over its wall_time limit of 0.3 s", STACKS)
    limits_page.wait_for("1 wall_time", "span")
    [first, *_] = limits_page.all(STACKS)
    assert "in wait_on" not in first.text, "it is folded"
    first.click()
    until(lambda: "in wait_on" in first.text)
    n_stacks = len(limits_page.all(STACKS))
    breach(executor)
    until(lambda: len(limits_page.all(STACKS)) > n_stacks)
    limits_page.wait_for("2 wall_time", "span")
    latest, before, *_ = limits_page.all(STACKS)
    assert "in wait_on" in before.text
    assert "in wait_on" not in latest.text


def test_what_ended_before_the_page_was_opened_is_shown(limits_page: Page, executor) -> None:
    """As the calls of each function are: how many, and what they used against their limits."""
    assert executor.submit(limit(pow, wall_time=40), 2, 3).result(timeout=60) == 8
    limits_page.open(limits_page.driver.current_url)
    limits_page.wait_for("pow", ".slick-cell")
    limits_page.wait_for("1 returned", ".slick-cell")
    limits_page.wait_for("s of 40 s", BAR)


def test_a_search_leaves_what_has_the_text(limits_page: Page, executor, tmp_path: Path) -> None:
    """Running calls by function or worker, and breaches by what their stacks have."""
    breach(executor)
    go = tmp_path / "go"
    calls = [limit(run_until, wall_time=55), limit(grow_by_steps, wall_time=55, memory="1 GiB")]
    futures = [
        executor.submit(calls[0], go, tmp_path / "runs"),
        executor.submit(calls[1], tmp_path),
    ]
    for name in ("run_until", "grow_by_steps"):
        limits_page.wait_for(name, FUNCTIONS)
    [field] = limits_page.all("input")
    field.send_keys("GROW_by")
    limits_page.wait_for("1 found.")
    until(lambda: "run_until" not in limits_page.texts(FUNCTIONS))
    assert "grow_by_steps" in limits_page.texts(FUNCTIONS)
    limits_page.wait_for("None is found.")
    assert not limits_page.all(STACKS)
    field.clear()
    field.send_keys("wait_on")
    limits_page.wait_for("0 found.")
    until(lambda: bool(limits_page.all(STACKS)))
    go.touch()
    (tmp_path / "1").touch()
    (tmp_path / "end").touch()
    for future in futures:
        future.result(timeout=60)


def test_each_function_says_how_many_of_its_calls_wait_run_and_have_ended(
    limits_page: Page, executor, tmp_path: Path
) -> None:
    """Four can run at a time here."""

    def counted(path: Path) -> None:
        run_until(path, path.with_suffix(".runs"))

    gates = [tmp_path / f"{n}" for n in range(6)]
    for gate in gates[:1]:
        gate.touch()
    futures = [executor.submit(limit(counted, wall_time=50, cores=1), gate) for gate in gates]

    def counts() -> list[str]:
        """Of its row: what waits, runs and has ended."""
        pattern = re.compile(r"counted\s*(\d)\s*(\d)\s*(\d of 6)")
        found = [pattern.match(text.strip()) for text in limits_page.texts(".slick-row")]
        return next(([*one.groups()] for one in found if one), [])

    until(lambda: counts() == ["1", "4", "1 of 6"], 30, counts)
    for gate in gates:
        gate.touch()
    for future in futures:
        future.result(timeout=60)
    until(lambda: counts() == ["0", "0", "6 of 6"], 30, counts)


def test_names_and_messages_are_shown_as_text(limits_page: Page, executor, tmp_path) -> None:
    def evil(go: Path, runs: Path) -> None:
        run_until(go, runs)
        wait_on()

    evil.__name__ = evil.__qualname__ = EVIL
    go = tmp_path / "go"
    future = executor.submit(limit(evil, wall_time=50, memory="1 GiB"), go, tmp_path / "runs")
    limits_page.wait_for(EVIL, ".slick-cell")  # as it runs
    future.cancel()
    executor.submit(limit(evil, wall_time=0.3), go, tmp_path / "runs").exception(timeout=60)
    limits_page.wait_for(EVIL, STACKS)
    until(lambda: any(EVIL in text for text in limits_page.texts(".slick-cell")))
    assert limits_page.script("return window.wrong === undefined")
    assert not limits_page.all("img[src=x]")


def test_a_narrow_page_is_not_wider_than_its_window(limits_page: Page) -> None:
    limits_page.open(limits_page.driver.current_url, width=500)
    limits_page.wait_for("Endings", "h3")
    limits_page.wait_for("Last breaches", "h3")
    assert limits_page.script("return document.documentElement.scrollWidth <= window.innerWidth")
