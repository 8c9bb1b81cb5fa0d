"""How source logits are spoiled."""

import pytest
import torch
import torch.nn.functional as F

from segrefinery.core.randomness import generator
from segrefinery.refine.refinement_network.formulas import _doubts, perturb


@pytest.mark.parametrize("kind", ["regions", "class_dropout", "boundary_jitter", "none"])
def test_strength_zero_changes_nothing(kind):
    logits, style = torch.randn(2, 4, 9, 12), torch.randn(1, 4, 9, 12)
    spoiled = perturb(logits, style, kind, 0.0, [generator(0), generator(1)])
    torch.testing.assert_close(spoiled, logits, atol=1e-5, rtol=0)


def test_the_weakest_fourier_moves_each_channels_mean_alone():
    logits, style = torch.randn(2, 4, 9, 12), torch.randn(1, 4, 9, 12)
    spoiled = perturb(logits, style, "fourier", 0.0, [generator(0), generator(1)])
    before, after, wanted = (maps.mean(dim=(2, 3), keepdim=True) for maps in (logits, spoiled, style))
    torch.testing.assert_close(after, before.sign() * wanted.abs())
    torch.testing.assert_close(spoiled - after, logits - before, atol=1e-5, rtol=0)


def test_a_forgotten_class_never_wins():
    logits = torch.randn(1, 4, 9, 12)
    spoiled = perturb(logits, logits, "class_dropout", 0.5, [generator(3)])
    forgotten = [kind for kind in range(4) if not torch.equal(spoiled[0, kind], logits[0, kind])]
    assert 0 < len(forgotten) < 4
    torch.testing.assert_close(spoiled[0, forgotten[0]], logits[0].amin(0))
    assert not torch.isin(spoiled.argmax(1), torch.tensor(forgotten)).any()


def test_regions_take_a_class_for_the_one_the_target_hesitates_with():
    said = torch.zeros(1, 3, 24, 32)
    said[:, 0], said[:, 1] = 4.0, 1.0
    target = torch.tensor([4.0, 0.0, 3.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)  # 0 is mostly taken for 2
    spoiled = perturb(said, target, "regions", 0.25, [generator(0)])
    labels = spoiled.argmax(1)
    changed = labels != 0
    assert float(changed.float().mean()) == pytest.approx(0.25, abs=0.02)
    assert set(labels.unique().tolist()) == {0, 2}
    torch.testing.assert_close(spoiled.sort(dim=1).values, said.sort(dim=1).values)
    # Regions, not specks: most neighbours of a spoiled pixel are spoiled.
    beside = changed[..., 1:] & changed[..., :-1]
    assert beside.sum() > 0.8 * changed.sum()


def test_doubts_are_counted_in_float32():
    """511 pixels say the first class and think of the second with 1/4: 127.75, which is 128 in bfloat16."""
    logits = torch.tensor([3.0, 1.0]).log().view(1, 2, 1, 1).expand(1, 2, 7, 73)
    with torch.autocast("cpu", torch.bfloat16):
        doubts = _doubts(logits)
    torch.testing.assert_close(doubts, torch.tensor([[0.0, 127.75], [0.0, 0.0]]), atol=1e-4, rtol=0)


def test_jitter_moves_boundaries_and_nothing_far_from_them():
    label = torch.zeros(1, 32, 64, dtype=torch.long)
    label[..., 32:] = 1
    logits = F.one_hot(label, 2).permute(0, 3, 1, 2).float()
    moved = perturb(logits, logits, "boundary_jitter", 0.1, [generator(0)]).argmax(1) != label
    assert moved.any()
    assert not moved[..., :28].any()
    assert not moved[..., 36:].any()
