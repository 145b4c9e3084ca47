"""The style sheet of what cells show.

An output of a cell may stand in JupyterLab, the classic Notebook, VS Code or a page of nbconvert,
each light or dark, whatever the desktop is. So text has the colour that is there, and lines and
areas are see-through greys and colours that can be read on white and on black.
"""

from __future__ import annotations

from typing import Final

# The pages have rules of their own for tables and code, which two classes outweigh, and for classes
# such as "badge" and "progress", so ours begin with "dl-".
_SCOPE: Final = ".dask-limits.dl-view"

# Each & stands for that scope.
_RULES: Final = """
&{font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;line-height:1.45}
&{color:var(--jp-content-font-color1,inherit);max-width:70em;margin:2px 0;overflow-wrap:anywhere}
& .dl-title{font-weight:600;margin-bottom:4px}
& .dl-note{opacity:.75}
& .dl-message{white-space:pre-wrap;margin:2px 0}
& .dl-scrolls{overflow-x:auto;max-width:100%}
& table{border-collapse:collapse;table-layout:auto;width:auto;margin:2px 0 6px;border:0}
& table{font:inherit;color:inherit}
& tr,& tbody tr:nth-child(n),& tbody tr:hover{background:none}
& th,& td{text-align:left;vertical-align:top;padding:2px 14px 2px 0;border:0;max-width:none}
& th,& td{border-bottom:1px solid rgba(128,128,128,.25);white-space:normal;line-height:inherit}
& th,& td{overflow-wrap:break-word}
& td .dl-note{overflow-wrap:anywhere}
& td{font-variant-numeric:tabular-nums}
& thead th{font-weight:600;vertical-align:bottom;border-bottom-color:rgba(128,128,128,.6)}
& tbody th{font-weight:400;opacity:.8}
& .dl-bar{height:5px;min-width:72px;margin:2px 0 3px;border-radius:3px;overflow:hidden}
& .dl-bar{background:rgba(128,128,128,.25)}
& .dl-fill{height:5px;border-radius:3px;background:#3b82c4}
& .dl-near{background:#d08a20}
& .dl-over{background:#d64545}
& .dl-progress{max-width:30em}
& .dl-badge{display:inline-block;padding:0 6px;margin-right:6px;border-radius:3px;font-weight:600}
& .dl-badge{background:rgba(128,128,128,.2)}
& .dl-good{background:rgba(40,160,90,.25)}
& .dl-bad{background:rgba(214,69,69,.28)}
& code,& pre{font-family:var(--jp-code-font-family,ui-monospace,monospace);font-size:12px}
& code,& pre{line-height:1.4;background:none;color:inherit;padding:0;border:0}
& code{white-space:pre-wrap}
& pre{white-space:pre;overflow-x:auto;max-height:30em;margin:2px 0 6px;padding:4px 8px}
& pre{background:rgba(128,128,128,.12);border-radius:3px}
& .dl-part{margin:4px 0 4px 14px}
& details{margin:2px 0}
& details details,& details>div{margin-left:14px}
& summary{cursor:pointer;display:list-item}
"""

STYLE: Final = _RULES.strip().replace("&", _SCOPE)
