"""What every segmenter must keep; a network's test class says how it is built and at which strides its output lies."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from segrefinery.models import ModelSettings, Segmenter, build_model

CLASSES = 5


class SegmenterContract:
    """Subclass it as ``TestX`` and set ``name``, ``options`` and the strides.

    Attributes:
        stride: of the logits.
        level_strides: of each level.
        margin: by how many cells the grid may differ from ceil(side / stride).
        sizes: odd ones, and ones that neither 14 nor 32 divides.
    """

    name: str
    options: dict = {}  # noqa: RUF012
    stride: float
    level_strides: tuple[int, ...]
    margin = 0
    sizes = ((61, 83), (64, 96))

    @classmethod
    def build(cls, seed: int = 0) -> Segmenter:
        torch.manual_seed(seed)
        return build_model(ModelSettings(name=cls.name, weights="none", options=cls.options), CLASSES)

    @pytest.fixture(scope="class")
    def model(self) -> Segmenter:
        return self.build()

    def check_grid(self, found: torch.Size, size: tuple[int, int], stride: float) -> None:
        for cells, side in zip(found[-2:], size):
            assert abs(cells - math.ceil(side / stride)) <= self.margin

    def test_shapes(self, model):
        for size in self.sizes:
            with torch.no_grad():
                seen = model.eval()(torch.randn(2, 3, *size))
            assert seen.logits.shape[:2] == (2, CLASSES)
            self.check_grid(seen.logits.shape, size, self.stride)
            assert seen.features.shape == (2, model.feature_channels, *seen.logits.shape[-2:])
            assert tuple(level.shape[1] for level in seen.levels) == model.level_channels
            for level, stride in zip(seen.levels, self.level_strides, strict=True):
                self.check_grid(level.shape, size, stride)
            assert tuple(learner.latent.shape[1] for learner in seen.learners) == model.learner_channels
            for learner in seen.learners:
                assert learner.logits.shape[-2:] == learner.latent.shape[-2:]
            if seen.aux_logits is not None:
                assert seen.aux_logits.shape[1] == CLASSES

    def test_eval_does_not_depend_on_the_batch_or_the_calls_before(self, model):
        image = torch.randn(2, 3, *self.sizes[0])
        with torch.no_grad():
            both, one = model.eval()(image).logits, model(image[:1]).logits
        torch.testing.assert_close(both[:1], one, rtol=1e-3, atol=1e-4)

    def test_every_trained_parameter_gets_a_gradient_under_bf16(self):
        model = self.build().train()
        with torch.autocast("cpu", torch.bfloat16):
            seen = model(torch.randn(2, 3, *self.sizes[0]))
        loss = sum(learner.logits.float().square().mean() for learner in seen.learners)
        loss.backward()
        silent = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not silent
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)

    def test_same_seed_same_weights_and_state_round_trip(self, model):
        other = self.build()
        state = model.state_dict()
        # Running statistics aside, nothing has moved since the build.
        for (name, own), new in zip(other.named_parameters(), dict(model.named_parameters()).values(), strict=True):
            assert torch.equal(own, new), name
        other = self.build(seed=1)
        other.load_state_dict(state)
        image = torch.randn(1, 3, *self.sizes[0])
        with torch.no_grad():
            assert torch.equal(other.eval()(image).logits, model.eval()(image).logits)

    def test_copies_are_independent(self, model):
        twin = copy.deepcopy(model).eval()
        image = torch.randn(1, 3, *self.sizes[1])
        with torch.no_grad():
            before = model.eval()(image).logits
            for parameter in twin.parameters():
                parameter.zero_()
            twin(image)
            assert torch.equal(model(image).logits, before)

    def test_backbone_parameters_are_its_own(self, model):
        own = {id(parameter) for parameter in model.parameters()}
        backbone = [id(parameter) for parameter in model.backbone_parameters()]
        assert set(backbone) <= own
        assert len(set(backbone)) == len(backbone) < len(own)
