"""Passes that score a model, shared among processes: each looks at its images, and together they say what one says."""

from __future__ import annotations

import threading
from functools import partial
from types import SimpleNamespace

import torch

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.datasets import open_dataset
from segrefinery.data.transforms import DataSettings
from segrefinery.engine.events import RunEvents, StageEnd
from segrefinery.engine.scorer import EVALUATION, Following, Led, Scorer
from toys import ToySegmenter

WORLD = 3


class Threads:
    """Processes that are threads: what they tell each other."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(WORLD, timeout=60)
        self.told: dict[int, object] = {}

    def exchange(self, rank: int, value: object) -> list[object]:
        self.told[rank] = value
        self.barrier.wait()
        everything = [self.told[each] for each in range(WORLD)]
        self.barrier.wait()
        return everything


class OfThreads:
    """What the scorer asks of Fabric."""

    world_size = WORLD

    def __init__(self, threads: Threads, rank: int) -> None:
        self.threads, self.global_rank = threads, rank

    def broadcast(self, value: object) -> object:
        return self.threads.exchange(self.global_rank, value)[0]


def scorers(monkeypatch) -> list[Scorer]:
    """One of each process."""
    images = open_dataset("scenes:night,count=4,size=32x64@test")
    sets = SimpleNamespace(evaluation=images, target=open_dataset("scenes:night,count=5,size=32x64"))
    threads = Threads()

    def gather(told: list, value: object) -> None:
        told[:] = threads.exchange(int(threading.current_thread().name), value)

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    data = DataSettings(short_side=32)
    return [Scorer(OfThreads(threads, number), sets, data, 19) for number in range(WORLD)]  # pyright: ignore


def together(works) -> list[Exception]:
    """Run each in a thread named as its rank -> what they raised."""
    errors: list[Exception] = []

    def run(number: int) -> None:
        try:
            works[number]()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), name=str(number)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


class Asks(RunEvents):
    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.progress = scorer, []

    def ended(self, end: StageEnd) -> None:
        self.scores = self.scorer.evaluate(end.predictor, EVALUATION, lambda *told: self.progress.append(told))
        self.observation = self.scorer.look(end.predictor)


def stage_end() -> StageEnd:
    """With the same network each time; made before the threads start, which have one random state in common."""
    torch.manual_seed(0)
    return StageEnd("adapt", None, None, ToySegmenter(19).eval(), source_only=False)  # pyright: ignore


def test_shares_say_what_one_process_says(monkeypatch):
    """Four images and five among three processes."""
    made = scorers(monkeypatch)
    alone = Asks(Scorer(SimpleNamespace(world_size=1, global_rank=0), made[0].sets, made[0].data, 19))  # pyright: ignore
    alone.ended(stage_end())
    asks = Asks(made[0])
    events = [Led(asks, made[0]), *(Following(one) for one in made[1:])]
    assert not together([partial(one.ended, stage_end()) for one in events])
    assert asks.progress == [(3, 4), (4, 4)]
    assert torch.equal(asks.scores.per_image, alone.scores.per_image)
    assert torch.equal(asks.scores.total.matrix, alone.scores.total.matrix)
    one, other = asks.observation, alone.observation
    assert one.names == other.names
    assert all(torch.equal(one.views[view], other.views[view]) for view in other.views)
    for field in ("probs", "stable", "density"):
        assert torch.equal(getattr(one, field), getattr(other, field))


def test_an_image_that_cannot_be_read_is_an_error_in_all(monkeypatch):
    made = scorers(monkeypatch)
    read = made[0].sets.evaluation.image

    def broken(index):
        if index == 1:
            raise SegRefineryError("2.png: is damaged")
        return read(index)

    monkeypatch.setattr(made[0].sets.evaluation, "image", broken)
    events = [Led(Asks(made[0]), made[0]), *(Following(one) for one in made[1:])]
    errors = together([partial(one.ended, stage_end()) for one in events])
    assert [str(error) for error in errors] == ["2.png: is damaged"] * WORLD
