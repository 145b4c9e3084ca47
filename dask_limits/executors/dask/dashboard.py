"""Where the dashboard of a Dask scheduler is to be seen."""

from __future__ import annotations

import getpass
import shlex
import socket
from urllib.parse import urlsplit, urlunsplit

import distributed


def dashboard_link(client: distributed.Client, host: str = "") -> str | None:
    """The address of the dashboard; None if there is none.

    `host` is what it listens on, if that is known: Dask takes the scheduler's own address for it.
    """
    link = client.dashboard_link
    if not link:
        return None
    url = urlsplit(link)  # Dask's configuration may make it "/user/ada/proxy/8787/status"
    if host and url.port is not None:
        link = urlunsplit((url.scheme, f"{host}:{url.port}", *url[2:]))
    return str(link)


def tunnel_to(link: str) -> str | None:
    """The command that makes a link to this machine work on another one; None if none is needed."""
    url = urlsplit(link)
    if url.hostname is None or url.port is None:
        return None
    login = shlex.quote(f"{getpass.getuser()}@{socket.gethostname()}")
    return f"ssh -N -L {url.port}:{url.hostname}:{url.port} {login}"
