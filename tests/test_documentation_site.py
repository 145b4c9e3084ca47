"""The site of the documentation, which `make docs` builds, loads nothing from the network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from pages import ROOT
from required import need


@pytest.mark.parametrize(
    ("text", "n_loaded"),
    [
        ('<script src="https://b.org/c.js"></script>', 1),
        ('<img alt="" src="//b.org/c.png">', 1),
        ('<link rel="stylesheet" href=https://b.org/c.css>', 1),
        ("@font-face { src: url(https://b.org/c.woff) }", 1),
        ('<pre class="mermaid"><code>graph</code></pre>', 1),
        ('<a href="https://b.org">b</a> <img src="../live.svg">', 0),
        ("<code>url = 'https://b.org'</code>", 0),
    ],
)
def test_a_page_that_would_load_from_the_network_is_found(
    text: str, n_loaded: int, tmp_path: Path
) -> None:
    need(importlib.util.find_spec("mkdocs"), "MkDocs, which `make docs` installs")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "ci" / "mkdocs_hooks.py")
    hooks = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(hooks)  # type: ignore[union-attr]
    assert len(hooks.what_is_loaded(text)) == n_loaded

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.exceptions import PluginError

    config = MkDocsConfig()
    config.site_dir = str(tmp_path)
    (tmp_path / "page.html").write_text(text)
    if n_loaded:
        with pytest.raises(PluginError, match=r"page\.html loads from the network"):
            hooks.on_post_build(config)
    else:
        hooks.on_post_build(config)
