"""The dashboard's: how it gets a page of ours."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from dask_limits.dask.compat.undocumented_name import names

if TYPE_CHECKING:
    import distributed

logger = logging.getLogger(__name__)

_PAGES: Final = names(
    "distributed.node:ServerNode.http_application 2021.1",
    "distributed.http.routing:RoutingApplication.add_application 2021.1",
    "distributed.http.routing:RoutingApplication.applications 2021.1",
    "distributed.dashboard.core:BokehApplication 2021.1",
    "distributed.dashboard.components.scheduler:BOKEH_THEME 2021.1",
    "distributed.dashboard.components.scheduler:env 2021.1",
    what_for="to add the page /limits to the dashboard",
    without="The dashboard has no page /limits.",
)
NAMES: Final = _PAGES | names(
    "distributed.dashboard.scheduler:template_variables 2022.7.1",
    what_for="to add the page /limits to the menu of the dashboard",
    without="The menu has no link to /limits.",
)


def add_page(
    scheduler: distributed.Scheduler, name: str, fill: Callable[[Any], None]
) -> Callable[[], None]:
    """Add a page to the dashboard of a scheduler, and to its menu, in Dask's own layout.

    `fill` fills the document of bokeh that is made each time when someone opens the page. Returns
    what takes the page away. There is none without a dashboard, without bokeh, or if Dask lacks a
    name that it takes. Call it on the scheduler's loop.
    """
    try:
        return _add_page(scheduler, name, fill)
    except Exception as error:  # nothing that is only to be looked at may stop a scheduler
        logger.debug("The dashboard has no page /%s: %r", name, error)
        return lambda: None


def _add_page(
    scheduler: distributed.Scheduler, name: str, fill: Callable[[Any], None]
) -> Callable[[], None]:
    served = scheduler.http_application
    dashboards = [one for one in served.applications if f"/{name}" in _pages_of(one)]
    if dashboards or not any("/status" in _pages_of(one) for one in served.applications):
        return lambda: None
    [dashboard] = [one for one in served.applications if "/status" in _pages_of(one)]
    make = _PAGES["distributed.dashboard.core:BokehApplication"].get()
    menu = _menu_of(scheduler)

    def page(_: distributed.Scheduler, variables: dict[str, Any], document: Any) -> None:
        fill(document)
        document.template = _component("env").get_template("simple.html")
        document.template_variables.update(variables)
        document.theme = _component("BOKEH_THEME")

    application = make({f"/{name}": page}, scheduler, dashboard.prefix, menu)
    served.add_application(application)
    application.initialize(scheduler.loop)
    application.start()
    pages = menu.get("pages", [])  # which all pages share
    pages.insert(pages.index("info") if "info" in pages else len(pages), name)

    def remove() -> None:
        with contextlib.suppress(ValueError):  # it has been taken away before
            served.applications.remove(application)
            application.stop()
            pages.remove(name)

    return remove


def _pages_of(application: Any) -> set[str]:
    """The pages of an application of bokeh; none of another one."""
    return getattr(application, "app_paths", set())


def _menu_of(scheduler: distributed.Scheduler) -> dict[str, Any]:
    """What Dask puts into the templates of its pages, or nothing."""
    variables = NAMES["distributed.dashboard.scheduler:template_variables"].find()
    return variables(scheduler) if callable(variables) else {}


def _component(name: str) -> Any:
    return _PAGES[f"distributed.dashboard.components.scheduler:{name}"].get()
