"""What ``test_distributed.py`` runs as two processes: gradients averaged in buckets against gradients averaged one by
one after the backward pass."""

from __future__ import annotations

import time

import torch
from lightning_fabric import Fabric
from torch import nn

from segrefinery.engine import gradients
from segrefinery.engine.gradients import GradientAverage
from segrefinery.engine.processes import join_others, leave_others
from segrefinery.stages.optimizers import ScheduledOptimizer


class Net(nn.Module):
    """Channels last; with parameters that only some passes, ranks or nobody use."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.first_rank, self.nobody, self.at_times = (nn.Parameter(torch.ones(4)) for _ in range(3))
        self.to(memory_format=torch.channels_last)

    def forward(self, image: torch.Tensor, rank: int, at_times: bool) -> torch.Tensor:
        value = self.second(self.first(image).relu()).square().mean()
        if rank == 0:
            value = value + self.first_rank.square().sum()
        return value + self.at_times.square().sum() if at_times else value


def main() -> None:
    gradients.BUCKET = 256
    join_others(torch.device("cpu"))
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, fused=True)
    average = GradientAverage(fabric, net, {"model": ScheduledOptimizer(optimizer, lambda step: 1.0)})
    assert len(average.buckets) > 2
    torch.manual_seed(fabric.global_rank)
    # Passes a step, of which the last uses ``at_times``: more and fewer of them than in the step before, too.
    for number, (passes, at_times) in enumerate([(2, False), (2, False), (3, True), (2, True), (1, False), (1, False)]):
        optimizer.zero_grad(set_to_none=True)
        early = 0
        for turn in range(passes):
            images = torch.randn(2, 3, 12, 12).contiguous(memory_format=torch.channels_last)
            net(images, fabric.global_rank, at_times and turn == passes - 1).backward()
            early = sum(bucket.sent is not None for bucket in average.buckets)
        # The first step knows nothing; after one like the step before, all have set out by the end of its last pass.
        assert number or not early
        assert number not in (1, 5) or early == sum(bucket.used for bucket in average.buckets)
        expected = {}
        for name, parameter in net.named_parameters():
            mine = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            used = torch.tensor(float(parameter.grad is not None))
            torch.distributed.all_reduce(mine)
            torch.distributed.all_reduce(used)
            expected[name] = mine / 2 if used > 0 else None
        average.finish(fabric.all_reduce(torch.tensor(average.told()), reduce_op="mean").tolist())
        for name, parameter in net.named_parameters():
            if expected[name] is None:
                assert parameter.grad is None, (number, name)
                continue
            assert parameter.grad is not None, (number, name)
            assert torch.equal(parameter.grad, expected[name]), (number, name)
            assert parameter.grad.stride() == parameter.stride(), (number, name)
        assert net.nobody.grad is None
        assert (net.at_times.grad is None) is not at_times
        assert net.first_rank.grad is not None
        optimizer.step()
    average.close()
    for parameter in net.parameters():
        own = parameter.detach().clone()
        torch.distributed.broadcast(own, src=0)
        assert torch.equal(own, parameter)
    time.sleep(1.0 if fabric.global_rank == 0 else 0.0)  # the other is back before the first has left
    leave_others()
    join_others(torch.device("cpu"))  # as a second run in the same process does
    ranks = torch.tensor(1.0)
    torch.distributed.all_reduce(ranks)
    assert ranks == 2
    leave_others()


if __name__ == "__main__":
    main()
