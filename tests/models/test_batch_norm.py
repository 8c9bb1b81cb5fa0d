"""Running statistics measured anew, and left alone."""

import torch
from torch import nn

from segrefinery.models.batch_norm import measure_statistics, unmoved_statistics


def test_statistics_are_the_mean_over_the_batches_and_nothing_else_moves():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5)).eval()
    batches = [torch.randn(4, 3, 5, 5) + 7, 2 * torch.randn(4, 3, 5, 5)]
    weight = network[0].weight.clone()
    measure_statistics(network, iter(batches))
    mean = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    variance = torch.stack([batch.transpose(0, 1).flatten(1).var(dim=1) for batch in batches]).mean(dim=0)
    torch.testing.assert_close(network[0].running_mean, mean)
    torch.testing.assert_close(network[0].running_var, variance)
    assert network[0].momentum == 0.1
    assert not network.training
    assert torch.equal(network[0].weight, weight)


def test_a_pass_within_leaves_them_and_normalises_by_its_batch():
    network = nn.BatchNorm2d(3).train()
    image = torch.randn(4, 3, 5, 5) + 7
    with unmoved_statistics(network):
        assert network(image).mean().abs() < 1e-5
    assert network.running_mean.eq(0).all()
    network(image)
    assert network.running_mean.ne(0).all()
    with unmoved_statistics(network, unmoved=False):
        before = network.running_mean.clone()
        network(image)
    assert not torch.equal(before, network.running_mean)


def test_a_network_without_batch_norm_is_not_asked():
    def images():
        raise AssertionError("looked at")
        yield

    measure_statistics(nn.GroupNorm(1, 3), images())


def test_a_norm_behind_a_pooling_of_the_whole_keeps_what_it_had():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4))
    network[3].running_mean.fill_(0.5)
    measure_statistics(network, [torch.randn(1, 3, 8, 8) for _ in range(3)])
    assert torch.equal(network[3].running_mean, torch.full((4,), 0.5))
    assert network[1].running_mean.abs().min() > 0
    assert network[3].momentum == network[1].momentum == 0.1
