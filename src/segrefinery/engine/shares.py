"""Work on many images, shared among processes: those that torchrun started, or Ray's workers."""

from __future__ import annotations

import ast
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import distributed

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.lazy import optional
from segrefinery.engine.model import default_device
from segrefinery.engine.processes import join_others, rank

ENGINES = ("local", "ray")
Fault = SegRefineryError | str
"""What is wrong with an image, as it was raised or in words."""


class Work(Protocol):
    """What is done with each of many images; it is sent to other processes as it is."""

    @property
    def chunk(self) -> int:
        """Images, by their places, that one process does together."""
        ...

    def do(self, places: Sequence[int]) -> dict[int, Fault]:
        """Do a chunk -> what is wrong with those that cannot be read."""
        ...

    def to(self, device: torch.device) -> object:
        """Move the model."""
        ...

    def finished_since(self, place: int, moment: int) -> bool:
        """Whether an image was done after a moment, in nanoseconds."""
        ...


def chunks(places: Sequence[int], size: int) -> list[list[int]]:
    """Places by the chunk they belong to."""
    by_chunk: dict[int, list[int]] = {}
    for place in places:
        by_chunk.setdefault(place // size, []).append(place)
    return list(by_chunk.values())


def world_size() -> int:
    """How many processes torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def team() -> Iterator[None]:
    """The processes that torchrun started, able to tell each other of their work; nothing where there is one."""
    if world_size() == 1:
        yield
        return
    join_others(torch.device("cpu"))  # what they tell each other is no tensor
    try:
        yield
    finally:
        distributed.destroy_process_group()


def told_by_first(make: Callable[[], Any]) -> Any:
    """What the first process makes, in all; its error in all, too."""
    if world_size() == 1:
        return make()
    held: list[Any] = [None, None]
    if rank() == 0:
        try:
            held[0] = make()
        except SegRefineryError as error:
            held[1] = str(error)
    distributed.broadcast_object_list(held, src=0)
    if held[1] is not None:
        raise SegRefineryError(held[1])
    return held[0]


def in_shares(work: Work, places: Sequence[int], progress: Callable[[int], None]) -> dict[int, Fault]:
    """Do these images, each process its share -> in all processes, what is wrong with those that cannot be read."""
    size = world_size()
    mine = chunks(places, work.chunk)[rank() :: size]
    faults: dict[int, Fault] = {}
    done = 0
    for chunk in mine:
        faults |= work.do(chunk)
        done += len(chunk)
        progress(min(done * size, len(places)))
    if size == 1:
        return faults
    all_faults: list[Any] = [None] * size
    distributed.all_gather_object(all_faults, {place: str(fault) for place, fault in faults.items()})
    return {place: fault for each in all_faults for place, fault in each.items()}


def on_ray(work: Work, places: Sequence[int], workers: int, progress: Callable[[int], None]) -> dict[int, Fault]:
    """Do these images with Ray Data, in a cluster that runs or else one of this machine -> what is wrong with those
    that cannot be read. A worker that dies is replaced, and its images are done by another.

    Raises:
        SegRefineryError: Ray is not installed, or the work fails in every worker.
    """
    ray, data = _ray()
    device = default_device()
    work.to(torch.device("cpu"))
    mine = not ray.is_initialized()
    if mine:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    held, moment = ray.put(work), time.time_ns()

    class Worker:
        def __init__(self) -> None:
            torch.set_num_threads(1)
            self.work = ray.get(held)
            self.work.to(device)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            asked = [[int(place) for place in row.split()] for row in batch["places"]]
            faults: dict[int, Fault] = {}
            for chunk in asked:
                todo = [place for place in chunk if not self.work.finished_since(place, moment)]
                faults |= self.work.do(chunk if self.work.chunk > 1 and todo else todo)
            told = ["\n".join(f"{p} {str(faults[p])!r}" for p in chunk if p in faults) for chunk in asked]
            return {"done": [len(chunk) for chunk in asked], "faults": told}

    rows = [{"places": " ".join(map(str, chunk))} for chunk in chunks(places, work.chunk)]
    faults: dict[int, Fault] = {}
    done = 0
    try:
        data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        blocks = min(len(rows), max(4 * workers, len(rows) // 16))
        dataset = data.from_items(rows, override_num_blocks=max(1, blocks)).map_batches(
            Worker,
            batch_size=4,
            compute=data.ActorPoolStrategy(size=workers),
            num_cpus=1,
            num_gpus=1 if device.type == "cuda" else 0,
        )
        for row in dataset.iter_rows():
            done += int(row["done"])
            faults |= _read_faults(row["faults"])
            progress(done)
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise SegRefineryError(f"--engine ray: {lines[-1] if lines else type(error).__name__}") from error
    finally:
        work.to(device)
        if mine:
            ray.shutdown()
    return faults


def _read_faults(told: str) -> dict[int, Fault]:
    lines = (line.partition(" ") for line in told.splitlines())
    return {int(place): ast.literal_eval(text) for place, _, text in lines}


def _ray() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray, data = (optional(name, "--engine ray needs Ray", "ray") for name in ("ray", "ray.data"))
        return ray, data
