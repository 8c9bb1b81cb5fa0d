"""What the noise mask is taught."""

import torch
import torch.nn.functional as F

from segrefinery.refine.refinement_network.formulas import noise_mask_loss


def test_noise_mask_loss_by_hand():
    noise = torch.tensor([[[0.5, -1.0, 2.0, 9.0]]])
    label = torch.tensor([[[0, 0, 1, 255]]])
    judged = torch.zeros(1, 2, 1, 4)
    judged[:, 0] = 1  # says 0 everywhere: right, right, wrong, unknown
    per_pixel = torch.stack([F.softplus(noise[0, 0, 0]), F.softplus(noise[0, 0, 1]), 2 * F.softplus(-noise[0, 0, 2])])
    torch.testing.assert_close(noise_mask_loss(noise, judged, label), per_pixel.mean())
    # Nothing wrong: the factor is clipped; nothing known: 0.
    torch.testing.assert_close(
        noise_mask_loss(noise[..., :2], judged[..., :2], label[..., :2]), F.softplus(noise[0, 0, :2]).mean()
    )
    assert noise_mask_loss(noise, judged, torch.full_like(label, 255)) == 0


def test_how_often_a_wrong_pixel_counts_at_most():
    noise, label = torch.tensor([[[0.5, -1.0, 2.0, 1.0]]]), torch.tensor([[[0, 0, 0, 1]]])
    judged = torch.zeros(1, 2, 1, 4)
    judged[:, 0] = 1  # one of four is wrong, and counts three times
    right = F.softplus(noise[0, 0, :3]).sum()
    for largest, times in ((10.0, 3), (2.0, 2), (1.0, 1)):
        expected = (right + times * F.softplus(-noise[0, 0, 3])) / 4
        torch.testing.assert_close(noise_mask_loss(noise, judged, label, largest_balance=largest), expected)


def test_the_mask_is_judged_at_the_labels_size():
    noise, judged = torch.randn(2, 3, 4), torch.randn(2, 3, 3, 4)
    label = torch.randint(0, 3, (2, 12, 16))
    larger = (F.interpolate(maps, (12, 16), mode="bilinear") for maps in (noise[:, None], judged))
    of_noise, of_judged = larger
    torch.testing.assert_close(noise_mask_loss(noise, judged, label), noise_mask_loss(of_noise[:, 0], of_judged, label))
