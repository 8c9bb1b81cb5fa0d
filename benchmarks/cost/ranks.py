"""How several processes average their gradients: time, bytes and overlap of a step, by hand and by torch's engines.

    python benchmarks/cost/ranks.py                                   # 1, 2 and 4 processes on this machine's loopback
    python benchmarks/cost/ranks.py --link 1gbit                      # as root: the same over a line of that rate

A step is two passes of a network on images of its own in every process (source and mixed), each back-propagated for
itself as a stage does, and a fused AdamW step. The ways take turns, after two steps that do not count:

* ``none``: nothing is sent; what the others take beyond it is the time of communication that nothing hides. A single
  process has no other way;
* ``by hand``: all gradients in one transfer after the backward passes;
* ``ours``: buckets that set out in the last backward pass (``engine/gradients.py``), for several sizes of them;
* ``DistributedDataParallel``: its buckets; the first pass does not synchronise (``no_sync``);
* ``fully_shard``: FSDP2, a unit for each of the largest blocks; parameters are gathered for every pass. It refuses the
  channels last in memory, so its network has them first.

``early`` is how much of the gradients set out before the last of them was there: all but the last bucket. Bytes are
what the loopback carried; as root the processes have a loopback of their own, whose rate ``--link`` limits (tc).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.machine import machine
from segrefinery.core.processor import keep_freed_memory
from segrefinery.core.resize import bilinear
from segrefinery.engine import gradients
from segrefinery.models import ModelSettings, build_model
from segrefinery.stages.optimizers import ScheduledOptimizer

CLASSES = 19
BUCKETS = (1 << 20, 4 << 20, 25 << 20)
LIMIT = 900
"""Seconds that one group of processes may take."""


class Way:
    """One way to average: a network of its own, and a step.

    Attributes:
        model: what a pass calls.
        transfers: bytes of the step's transfers, in order; None where they cannot be seen.
    """

    def __init__(self, name: str, fabric: Fabric, options: argparse.Namespace) -> None:
        self.name, self.fabric, self.images = name, fabric, options.images
        torch.manual_seed(0)
        self.network = build_model(ModelSettings(name=options.network, weights="none"), CLASSES).train()
        self.model: Any = self.network
        self.transfers: list[int] | None = []
        self.prepare()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def prepare(self) -> None:
        """Wrap the network."""

    def step(self, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.transfers = None if self.transfers is None else []
        self.optimizer.zero_grad(set_to_none=True)
        for number, (image, label) in enumerate(batches):
            with self.quiet() if number + 1 < len(batches) else contextlib.nullcontext():
                seen = self.model(image)
                heads = [each for each in (seen.logits, seen.aux_logits) if each is not None]
                losses = [F.cross_entropy(bilinear(each.float(), label.shape[-2:]), label) for each in heads]
                torch.stack(losses).sum().backward()
        self.average()
        self.optimizer.step()

    def quiet(self) -> Any:
        """Around a pass that is not the step's last."""
        return contextlib.nullcontext()

    def average(self) -> None:
        """After the last backward pass."""


class ByHand(Way):
    def average(self) -> None:
        given = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        flat = torch.cat([each.reshape(-1) for each in given])
        self.transfers = [flat.nbytes]
        distributed.all_reduce(flat)
        flat.div_(self.fabric.world_size)
        for each, mean in zip(given, flat.split([each.numel() for each in given]), strict=True):
            each.copy_(mean.view(each.shape))


class Ours(Way):
    def average(self) -> None:
        if not hasattr(self, "means"):
            with mock.patch.object(gradients, "BUCKET", int(self.name.split()[1]) << 20):
                optimizer = ScheduledOptimizer(self.optimizer, lambda step: 1.0)
                self.means = gradients.GradientAverage(self.fabric, self.network, {"model": optimizer})
        told = self.fabric.all_reduce(torch.tensor(self.means.told()), reduce_op="mean")
        self.means.finish(told.tolist())  # pyright: ignore[reportAttributeAccessIssue]
        self.transfers = [bucket.flat.nbytes for bucket in self.means.buckets]


class Wrapped(Way):
    def prepare(self) -> None:
        with warnings.catch_warnings(action="ignore"):  # the option's name changes with torch's version
            self.model = nn.parallel.DistributedDataParallel(self.network, broadcast_buffers=False)

        def counted(state, bucket):  # torch refuses annotations that are text
            self.transfers = [*(self.transfers or []), bucket.buffer().nbytes]
            return allreduce_hook(state, bucket)

        self.model.register_comm_hook(None, counted)

    def quiet(self) -> Any:
        return self.model.no_sync()


class Sharded(Way):
    def prepare(self) -> None:
        self.transfers = None
        self.network.to(memory_format=torch.contiguous_format)
        for block in blocks(self.network):
            fully_shard(block)
        fully_shard(self.network)

    @contextlib.contextmanager
    def quiet(self) -> Any:
        self.model.set_requires_gradient_sync(False)
        yield
        self.model.set_requires_gradient_sync(True)


def blocks(network: nn.Module) -> list[nn.Module]:
    """The members of the longest list of blocks: an encoder's stages or a transformer's layers."""
    lists = [each for each in network.modules() if isinstance(each, nn.ModuleList | nn.Sequential)]
    heaviest = max(lists, key=lambda each: sum(p.numel() for p in each.parameters()), default=[])
    return [block for block in heaviest if sum(p.numel() for p in block.parameters())]  # pyright: ignore


def ways(fabric: Fabric, options: argparse.Namespace) -> dict[str, Way]:
    if fabric.world_size == 1:
        return {"none": Way("none", fabric, options)}
    made: dict[str, Callable[..., Way]] = {"none": Way, "by hand": ByHand}
    made |= {f"ours {size >> 20} MiB": Ours for size in BUCKETS}
    made |= {"DistributedDataParallel": Wrapped, "fully_shard": Sharded}
    return {name: kind(name, fabric, options) for name, kind in made.items()}


def carried() -> int:
    """Bytes that the loopback has carried (Linux)."""
    (line,) = (line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split()[9])


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Of this process's ways; seconds are the slowest process's, bytes are all processes' together."""
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    fabric = Fabric(accelerator="cpu", devices=int(os.environ["WORLD_SIZE"]), strategy="ddp")
    fabric.launch()
    torch.manual_seed(fabric.global_rank)
    shape = (options.images, 3, options.size, options.size)
    batches = [(torch.randn(shape), torch.randint(CLASSES, (shape[0], *shape[2:]))) for _ in range(2)]
    works = ways(fabric, options)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    sizes: dict[str, list[int]] = {name: [] for name in works}
    for turn in range(-2, options.steps):
        for name, way in works.items():
            distributed.barrier()
            before, start = carried(), time.perf_counter()
            way.step(batches)
            took = torch.tensor(time.perf_counter() - start)
            distributed.barrier()
            size = carried() - before
            distributed.all_reduce(took, distributed.ReduceOp.MAX)
            if turn >= 0:
                seconds[name].append(float(took))
                sizes[name].append(size)
    return {
        name: {
            "seconds": median(seconds[name]),
            "mib": median(sizes[name]) / 2**20 / fabric.world_size,
            "early": sum(way.transfers[:-1]) / sum(way.transfers) if way.transfers else None,
        }
        for name, way in works.items()
    }


def group(world: int, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Measure in so many processes, in a network of their own where that is allowed."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port, answer = free.getsockname()[1], Path(folder) / "answer.json"
        given = ["--network", options.network, "--size", str(options.size), "--images", str(options.images)]
        given += ["--steps", str(options.steps), "--threads", str(options.threads), "--answer", str(answer)]
        call = " ".join([sys.executable, __file__, *given])
        lines = ["ip link set lo up"] if options.own_network else []
        if options.link:
            lines.append(f"tc qdisc add dev lo root tbf rate {options.link} burst 256kb latency 100ms")
        setting = f"MASTER_ADDR=127.0.0.1 MASTER_PORT={port} WORLD_SIZE={world} LOCAL_WORLD_SIZE={world}"
        lines += [f"RANK={rank} LOCAL_RANK={rank} {setting} {call} &" for rank in range(world)]
        free.close()
        shell = ["sh", "-ec", "\n".join([*lines, "wait"])]
        subprocess.run([*(["unshare", "--net"] if options.own_network else []), *shell], timeout=LIMIT, check=True)
        if not answer.exists():
            raise SystemExit(f"{world} processes: one of them ended before it had measured")
        return json.loads(answer.read_text())


def show(world: int, images: int, told: dict[str, dict[str, Any]]) -> None:
    """Print the rows of a group; ``images``: how many all its processes together see in a step."""
    alone = told["none"]["seconds"]
    for name, one in told.items():
        more = one["seconds"] - alone
        print(
            f"| {world} | {name} | {1000 * one['seconds']:.0f} | {images / one['seconds']:.1f} | {1000 * more:.0f} "
            f"| {one['mib']:.1f} | " + ("" if one["early"] is None else f"{100 * one['early']:.0f} %") + " |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", type=int, default=2, help="in each process and pass")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--processes", default="1,2,4")
    parser.add_argument("--link", help="rate of the line between the processes, as tc writes it; takes root")
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        told = measure(options)
        if os.environ["RANK"] == "0":
            options.answer.write_text(json.dumps(told))
        return
    options.own_network = subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode == 0
    if options.link and not options.own_network:
        raise SystemExit("--link: takes root, and unshare, ip and tc")
    line = f"a line of {options.link}" if options.link else "the loopback"
    print(
        f"{machine()}; {options.threads} threads a process; {options.network}, {options.images} x {options.size} x ",
        end="",
    )
    print(f"{options.size} a pass, two passes a step; {line}\n")
    print("| processes | way | step ms | images/s | ms of communication not hidden | MiB sent a process | early |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for world in map(int, options.processes.split(",")):
        show(world, 2 * world * options.images, group(world, options))


if __name__ == "__main__":
    main()
