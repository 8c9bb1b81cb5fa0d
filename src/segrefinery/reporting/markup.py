"""HTML that is safe by construction: text is escaped where it enters, and only ``Markup`` passes as it is."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

VOID = frozenset(("br", "hr", "img", "input", "link", "meta"))


class Markup(str):
    """HTML or SVG that is finished; everything else is text and gets escaped."""


Child = Any
"""Text, a number, ``Markup``, None (nothing), or an iterable of these."""


def element(name: str, /, *children: Child, **attributes: Any) -> Markup:
    """One element. ``class_`` is ``class``, other underscores become hyphens; True is a bare attribute, None is left
    out."""
    parts = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(f" {key}" if value is True else f' {key}="{html.escape(str(value))}"')
    opening = f"<{name}{''.join(parts)}>"
    return Markup(opening if name in VOID else f"{opening}{join(children)}</{name}>")


def join(children: Child) -> Markup:
    """Children one after the other, text escaped."""
    if children is None:
        return Markup()
    if isinstance(children, Markup):
        return children
    if isinstance(children, str) or not isinstance(children, Iterable):
        return Markup(html.escape(str(children)))
    return Markup("".join(join(child) for child in children))


def section(title: str, *children: Child, lead: Child = None) -> Markup:
    """A part of the page: its title, a sentence that says what is to be seen, the content."""
    intro = element("p", lead, class_="lead") if lead else None
    return element("section", element("h2", title), intro, *children)


def figure(picture: Markup, caption: Child, **attributes: Any) -> Markup:
    return element("figure", picture, element("figcaption", caption), **attributes)


def table(head: Iterable[Child], rows: Iterable[Iterable[Child]], **attributes: Any) -> Markup:
    """A table that scrolls sideways on narrow screens; the first cell of a row is its header. A cell may be a finished
    ``<td>``."""
    body = []
    for row in rows:
        first, *others = row
        body.append(element("tr", element("th", first, scope="row"), *map(_cell, others)))
    columns = element("tr", *(element("th", cell, scope="col") for cell in head))
    return element(
        "div", element("table", element("thead", columns), element("tbody", *body), **attributes), class_="scroll"
    )


def _cell(content: Child) -> Markup:
    return content if isinstance(content, Markup) and content.startswith("<td") else element("td", content)


def percent(value: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as per cent; ``absent`` where there is none."""
    return "absent" if value is None else f"{100 * value:.{digits}f}"


def signed(value: float, digits: int = 1) -> str:
    """A difference of shares as per cent points, with its sign; a true minus."""
    text = f"{100 * value:+.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else f"{0:.{digits}f}"
