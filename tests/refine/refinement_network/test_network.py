"""The decoder takes any levels."""

import torch

from segrefinery.refine.refinement_network.refiner import RefinementDecoder


def test_decoder_takes_any_number_of_levels():
    for channels, strides in (((4,), (8,)), ((4, 6, 8, 10), (4, 8, 16, 32))):
        levels = [torch.randn(2, c, 64 // s, 96 // s) for c, s in zip(channels, strides)]
        seen = RefinementDecoder(channels, 5, width=16, norm="group")(levels, torch.randn(2, 5, 16, 24))
        assert seen.logits.shape == (2, 5, 16, 24)
        assert seen.noise.shape == (2, 16, 24)


def test_residual_starts_as_its_input_and_learns_from_there():
    torch.manual_seed(0)
    decoder = RefinementDecoder((4,), 3, width=8, residual=True).eval()
    levels, logits = [torch.randn(1, 4, 2, 2)], torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(decoder(levels, logits).logits, logits)
    decoder(levels, logits).logits[:, 0].sum().backward()
    assert decoder.classes.weight.grad is not None
    assert decoder.classes.weight.grad.any()
