"""Show foreign ids and names safely: as plain text, never as markup, a path or a command."""

from __future__ import annotations

from urllib.parse import quote

#: Most characters shown of an id or a name, and most characters in a file name: file systems allow 255 bytes.
_MOST_SHOWN = 100
_MOST_IN_FILE_NAME = 150


def printable(text: str, most: int = _MOST_SHOWN) -> str:
    """The text on one line: control and other invisible characters as escapes, a long text shortened."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: 2 * most])
    if len(text) > 2 * most or len(shown) > most:
        return f"{shown[: most // 2]}… ({len(text)} characters)"
    return shown


def visible(text: str) -> str:
    """Text of several lines for the terminal, with control and other invisible characters as escapes."""
    return "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def file_name(text: str) -> str:
    """A file name made from an id, without folders, leading dots or characters special to a shell."""
    name = quote(text, safe="+ ()[],=@").replace("/", "%2F")
    name = f"%2E{name[1:]}" if name.startswith(".") else name
    return name[:_MOST_IN_FILE_NAME]
