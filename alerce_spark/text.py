"""Foreign ids and names as text for readers. They are data: nothing in them is markup, a path or a command."""

from __future__ import annotations

from urllib.parse import quote

#: Characters of an id or a name that are shown, and of one in a file name: file systems take 255 bytes.
_MOST_SHOWN = 100
_MOST_IN_FILE_NAME = 150


def printable(text: str, most: int = _MOST_SHOWN) -> str:
    """The text on one line: control and other invisible characters as escapes, the middle of a long one left out."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: 2 * most])
    if len(text) > 2 * most or len(shown) > most:
        return f"{shown[: most // 2]}… ({len(text)} characters)"
    return shown


def visible(text: str) -> str:
    """Text of several lines for the terminal: control and other invisible characters as escapes."""
    return "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def file_name(text: str) -> str:
    """A name for a file that is called after an id: no folder, no hidden file, nothing that a shell would read."""
    name = quote(text, safe="+ ()[],=@").replace("/", "%2F")
    name = f"%2E{name[1:]}" if name.startswith(".") else name
    return name[:_MOST_IN_FILE_NAME]
