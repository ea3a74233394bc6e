"""The HTML frame of every page that the project writes: reports, nightly pages, the page of the demo."""

from __future__ import annotations

from html import escape

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 1em 0; }
caption { text-align: left; font-weight: 600; padding-bottom: .3em; }
td, th { padding: .2em .8em; border-bottom: 1px solid #e3e3e3; text-align: right; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; } .note { color: #555; } .no { color: #b04000; font-weight: 600; }
"""


def page(title: str, body: str) -> str:
    """A whole page that needs no other file: `title` as its heading, above `body` (HTML)."""
    name = escape(title)
    head = f'<meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>\n<h1>{name}</h1>\n{body}\n</body></html>\n'
