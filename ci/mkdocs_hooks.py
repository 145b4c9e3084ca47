"""A hook of the build of the documentation: no page may load anything from the network."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError

KINDS = {".css", ".html", ".svg"}
ELSEWHERE = r"""["']?(?:https?:)?//[^"')\s>]+"""
LOADS = re.compile(
    rf"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc={ELSEWHERE}"
    rf"|<link\b[^>]*?\bhref={ELSEWHERE}"
    rf"|\burl\(\s*{ELSEWHERE}"
    rf"|@import\s+{ELSEWHERE}"
    r"|<pre class=\"mermaid\"",  # for which the theme loads a library
    re.IGNORECASE,
)


def what_is_loaded(text: str) -> list[str]:
    """What a page or a style sheet would load from other servers."""
    return [found[0] for found in LOADS.finditer(text)]


def on_post_build(config: MkDocsConfig) -> None:
    """Fail the build if a page loads anything from elsewhere. MkDocs calls this at the end."""
    pages = (path for path in sorted(Path(config.site_dir).rglob("*")) if path.suffix in KINDS)
    for page in pages:
        if loaded := what_is_loaded(page.read_text()):
            raise PluginError(f"{page} loads from the network: {', '.join(loaded)}")
