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
