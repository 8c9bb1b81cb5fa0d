"""Reading, computing and writing at the same time, each of another item."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")


def overlapped(
    items: Iterable[Item], read: Callable[[Item], Read], compute: Callable[[Item, Read], Callable[[], object]]
) -> Iterator[Item]:
    """Each item, in order, once it is written.

    Two items are in memory beside the one that is computed. An error of any of the three is raised here, and ends all.

    Args:
        read: called in a thread of its own, one item ahead.
        compute: called here with what was read; what it returns is called in a thread of its own, to write.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        left = iter(items)
        ahead = _next(reader, left, read)
        writing: tuple[Item, Future[object]] | None = None
        while ahead is not None:
            (item, reading), ahead = ahead, None
            ready = reading.result()
            ahead = _next(reader, left, read)
            write = compute(item, ready)
            del ready
            if writing is not None:
                writing[1].result()
                yield writing[0]
            writing = item, writer.submit(write)
        if writing is not None:
            writing[1].result()
            yield writing[0]


def _next(
    reader: ThreadPoolExecutor, left: Iterator[Item], read: Callable[[Item], Read]
) -> tuple[Item, Future[Read]] | None:
    for item in left:
        return item, reader.submit(read, item)
    return None
