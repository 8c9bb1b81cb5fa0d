"""Whether the hub of Hugging Face can be reached, asked before its client tries for a minute."""

from __future__ import annotations

import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from segrefinery.core.errors import first_line

_SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
PATIENCE = 5.0
"""Seconds that a host may take to answer."""


def why_unreachable() -> str | None:
    """What keeps us from the hub, in words: it is switched off, its host is unknown or does not answer; else None.
    Where a proxy stands between, its client is left to find out."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if urllib.request.getproxies():
        return None
    address = urllib.parse.urlsplit(constants.ENDPOINT)
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=PATIENCE).close()
    except OSError as error:
        return first_line(error)
    return None


@contextmanager
def from_cache_alone(*libraries: Any) -> Iterator[None]:
    """Within, the hub's client and ``libraries`` that stand on it read what was fetched before, and nothing else, as
    with ``HF_HUB_OFFLINE``, which they read when they are imported."""
    from huggingface_hub import constants

    places = [constants, *(getattr(library, "config", library) for library in libraries)]
    before = [(place, name, value) for place in places for name, value in vars(place).items() if name in _SWITCHES]
    try:
        for place, name, _ in before:
            setattr(place, name, True)
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)
