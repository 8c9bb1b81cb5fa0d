"""Words of users where they might be taken for something else: for a place on disk, or for an order to the terminal."""

from __future__ import annotations

import unicodedata

_LONGEST = 60
"""Characters of a name that becomes part of file names, which hold 143 bytes in encrypted folders."""


def printable(text: object) -> str:
    """The text as one may show it: line ends stay, other characters that order a terminal about, or turn the direction
    of writing, are shown as their codes."""
    return "".join(c if c == "\n" or not is_control(c) else f"\\x{ord(c):02x}" for c in str(text))


def is_control(character: str) -> bool:
    """Whether it is no sign but an order: control codes, lone halves of signs, and what turns the direction."""
    return (
        unicodedata.category(character) in ("Cc", "Cs")
        or character in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


def not_a_file_name(name: object) -> str | None:
    """What is wrong with a name that is to become a folder or part of a file's name; None if nothing is."""
    if not isinstance(name, str) or not name:
        return f"a name is a text (got {name!r}); put it in quotes"
    if any(not (c.isalnum() or c in "_-+. ") for c in name) or name[0] in ". " or name[-1] in ". ":
        return "the name becomes that of a folder; use letters, digits, and inside them also - _ + . and spaces"
    if len(name) > _LONGEST:
        return f"the name becomes that of a folder; use at most {_LONGEST} characters"
    return None
