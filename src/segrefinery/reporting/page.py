"""The page around the parts: one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files

from segrefinery.reporting.markup import Markup, element, join


def page(title: str, subtitle: str, body: Iterable[Markup | None], foot: str) -> str:
    """A whole HTML document with style and script inside."""
    style, script = (_resource(name) for name in ("style.css", "slider.js"))
    head = [
        Markup('<meta charset="utf-8">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        Markup(f"<style>{style}</style>"),
    ]
    header = element(
        "header", element("p", "SegRefinery", class_="brand"), element("h1", title), element("p", subtitle)
    )
    content = [header, element("main", *body), element("footer", foot), Markup(f"<script>{script}</script>")]
    whole = element("html", element("head", *head), element("body", *content), lang="en")
    return f"<!doctype html>\n{join(whole)}\n"


def _resource(name: str) -> str:
    return (files("segrefinery.reporting") / name).read_text(encoding="utf-8")
