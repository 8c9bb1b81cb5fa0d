"""Processes of a run tell each other that they are alive. One that works may be waited for as long as it takes; one
that was stopped, or whose machine is gone, would be waited for for ever."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from segrefinery.core.errors import SegRefineryError

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch._C._distributed_c10d import Store

BEAT = 5.0
"""Seconds between two signs of life."""
PATIENCE = 45.0
"""Seconds without one after which the others end: within a minute."""
ENDED = "ended"


class Heartbeat:
    """Two threads: one exchanges signs of life through a store, which may hang with the process that holds it; the
    other judges how old they are."""

    def __init__(self, store: Store, rank: int, world: int, leave: Callable[[str], None]) -> None:
        """``leave``: called once with the line about the process that does not answer."""
        self.store, self.rank, self.leave = store, rank, leave
        self.beats = {other: (b"", time.monotonic()) for other in range(world) if other != rank}
        self.exchanged = time.monotonic()
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self.exchange, self.judge)]
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        """Say that this process is done. A thread inside the store while Python ends would abort the process, so it is
        waited for, unless the store hangs."""
        self.ended.set()
        for thread in self.threads:
            thread.join(BEAT)

    def exchange(self) -> None:
        beat = 0
        try:
            while not self.ended.wait(BEAT):
                beat += 1
                self.store.set(str(self.rank), str(beat))
                for other, (last, _) in list(self.beats.items()):
                    message = self.store.get(str(other)) if self.store.check([str(other)]) else b""
                    if message != last:
                        self.beats[other] = (message, time.monotonic())
                self.exchanged = time.monotonic()
            self.store.set(str(self.rank), ENDED)
        except RuntimeError:  # who held the store has ended: training notices by itself
            self.ended.set()

    def judge(self) -> None:
        looked = time.monotonic()
        while not self.ended.wait(BEAT):
            now = time.monotonic()
            if now - looked > PATIENCE / 2:  # this process was stopped itself, maybe with the others
                self.exchanged = now
                self.beats = {other: (last, now) for other, (last, _) in self.beats.items()}
            looked = now
            if now - self.exchanged > PATIENCE:
                late = ["the first process"]
            else:
                silent = [
                    each for each, (last, at) in self.beats.items() if last != ENDED.encode() and now - at > PATIENCE
                ]
                late = [f"process {each}" for each in silent]
            if late and not self.ended.is_set():
                self.ended.set()
                self.leave(
                    f"{', '.join(late)} of this run has not answered for {PATIENCE:.0f} seconds: it is stopped, or "
                    "its machine is out of reach; end it, and go on with --resume"
                )


@contextmanager
def together(fabric: Fabric) -> Iterator[None]:
    """Within, this process ends, with a line, where another does not answer or has ended.

    Raises:
        SegRefineryError: another process has ended.
    """
    if fabric.world_size == 1:
        yield
        return
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.distributed_c10d import _get_default_store

    store = PrefixStore("heartbeat", _get_default_store().clone())
    store.set_timeout(timedelta(seconds=2 * PATIENCE))  # the judge is first
    heart = Heartbeat(store, fabric.global_rank, fabric.world_size, _leave)
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ != "DistBackendError" and "onnection " not in str(error):
            raise
        raise SegRefineryError(
            "another process of this run has ended; it has said why, or was killed; go on with --resume"
        ) from error
    finally:
        heart.end()


def _leave(line: str) -> None:
    """End at once: the main thread waits where no exception reaches it. Files are whole at any moment."""
    sys.stderr.write(f"error: {line}\n")
    sys.stderr.flush()
    os._exit(2)
