import pytest
import torch
import torch.nn.functional as F

from segrefinery.losses import weighted_cross_entropy


@pytest.mark.parametrize("size", [(5, 6), (20, 24)])
def test_it_is_the_pixelwise_loss_over_all_pixels_and_so_is_its_gradient(size):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=rng)
    label = torch.randint(0, 4, (2, *size), generator=rng)
    label[:, :2] = 255
    weight = torch.rand(2, *size, generator=rng)

    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = weighted_cross_entropy(ours, label, weight)
    enlarged = F.interpolate(theirs, size, mode="bilinear", align_corners=False)
    log_probs = enlarged.log_softmax(dim=1)
    picked = log_probs.gather(1, label.masked_fill(label == 255, 0)[:, None])[:, 0]
    expected = -(picked * (label != 255) * weight).sum() / label.numel()
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_by_hand():
    logits = torch.tensor([[[[0.0, 2.0]], [[0.0, 0.0]]]])  # two pixels, two classes
    label = torch.tensor([[[1, 0]]])
    expected = (torch.log(torch.tensor(2.0)) + torch.log1p(torch.exp(torch.tensor(-2.0)))) / 2
    torch.testing.assert_close(weighted_cross_entropy(logits, label), expected)
    assert weighted_cross_entropy(logits, torch.full_like(label, 255)) == 0
