"""A process that does not answer ends the others; one that is busy or has ended does not."""

import time
from types import SimpleNamespace

import pytest
from torch.distributed import HashStore

from segrefinery.engine import heartbeat
from segrefinery.engine.heartbeat import Heartbeat


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(heartbeat, "BEAT", 0.02)
    monkeypatch.setattr(heartbeat, "PATIENCE", 1.0)


def test_a_silent_process_is_named():
    said, store = [], HashStore()
    own = Heartbeat(store, 0, 3, said.append)
    other = Heartbeat(store, 2, 3, lambda line: None)
    deadline = time.monotonic() + 30
    while not said and time.monotonic() < deadline:
        time.sleep(0.05)
    other.ended.set()
    own.ended.set()
    assert len(said) == 1
    assert said[0].startswith("process 1 of this run has not answered")
    assert said[0].endswith("--resume")


def test_busy_and_ended_processes_are_let_be():
    said, store = [], HashStore()
    hearts = [Heartbeat(store, rank, 2, said.append) for rank in range(2)]
    time.sleep(1.5)
    hearts[1].end()
    time.sleep(1.5)
    hearts[0].end()
    assert not said
    assert not any(thread.is_alive() for heart in hearts for thread in heart.threads)


def test_a_store_that_hangs_is_the_first_process():
    class Hanging(HashStore):
        def set(self, key, value):
            time.sleep(60)

    said = []
    Heartbeat(Hanging(), 1, 2, said.append)
    deadline = time.monotonic() + 30
    while not said and time.monotonic() < deadline:
        time.sleep(0.05)
    assert said[0].startswith("the first process of this run has not answered")


def test_a_process_that_was_stopped_itself_blames_nobody(monkeypatch):
    """As with Ctrl-Z: it wakes to old signs of life, and judges by those that come from now on."""
    said, clock, slept = [], time.monotonic, [0.0]
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: clock() + slept[0]))
    store = HashStore()
    own = Heartbeat(store, 0, 2, said.append)
    slept[0] = 100.0
    time.sleep(0.3)
    assert not said
    deadline = clock() + 30
    while not said and clock() < deadline:
        time.sleep(0.05)
    own.ended.set()
    assert len(said) == 1
