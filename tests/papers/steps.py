"""Several whole training steps of a recipe's stage, for comparison with references in float64 that are written from the
papers and the authors' code (as our notes on them tell), not from our own."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from segrefinery.core.randomness import generator
from segrefinery.data.batch import LabeledBatch, UnlabeledBatch
from segrefinery.data.mixing import draw_mix_classes
from segrefinery.engine.gradients import GradientAverage
from segrefinery.engine.loop import LoopSettings, one_step
from segrefinery.labels import LabelSpace
from segrefinery.models.segmenter import Learner, Prediction, Segmenter
from segrefinery.recipe import load_recipe
from segrefinery.stages.base import Passes, Stage, StageContext

NAMES = ["traffic light", "rider", "road", "sky", "car"]
THINGS = (0, 1, 4)
C = len(NAMES)
SPACE = LabelSpace.of("toy", NAMES)
SIZE = (32, 48)
STEPS = 4
NEAR = 1e-5
"""Largest difference of two states over the largest number in them; some formulas are computed in float32."""
NEAR_SINGLE = 2e-5
"""Where all of the stage is."""


class Toy(Segmenter):
    """Strides 4 and 8 with batch norm, a main classifier on their sum and a second one on the coarse level."""

    def __init__(self, auxiliary: bool = True, width: int = 8) -> None:
        super().__init__()
        self.num_classes, self.feature_channels, self.largest_stride = C, width, 8
        self.level_channels = (width, 2 * width)
        self.learner_channels = (width, 2 * width) if auxiliary else (width,)
        self.stem, self.fine_norm = nn.Conv2d(3, width, 4, stride=4), nn.BatchNorm2d(width)
        self.deep, self.coarse_norm = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width)
        self.mixer, self.classifier = nn.Conv2d(2 * width, width, 1), nn.Conv2d(width, C, 1)
        self.auxiliary = nn.Conv2d(2 * width, C, 1) if auxiliary else None

    def forward(self, image: Tensor) -> Prediction:
        fine = self.fine_norm(self.stem(image)).relu()
        coarse = self.coarse_norm(self.deep(fine)).relu()
        features = fine + up(self.mixer(coarse), fine.shape[-2:])
        learners = [Learner(self.classifier(features), features)]
        if self.auxiliary is not None:
            learners.append(Learner(self.auxiliary(coarse), coarse))
        return Prediction.of(learners, (fine, coarse))

    def backbone_parameters(self) -> list[nn.Parameter]:
        parts = self.stem, self.fine_norm, self.deep, self.coarse_norm
        return [parameter for part in parts for parameter in part.parameters()]


def toy(targets: Sequence[UnlabeledBatch], seed: int = 0, auxiliary: bool = True) -> Toy:
    """A network in float64 that says every class equally often on the targets."""
    torch.manual_seed(seed)
    network = Toy(auxiliary).double().eval()
    bias = network.classifier.bias
    assert bias is not None
    with torch.no_grad():
        for _ in range(30):
            said = torch.cat([network(batch.image).logits for batch in targets]).argmax(1).flatten()
            bias -= 0.5 * (said.bincount(minlength=C) / len(said) - 1 / C)
    return network.train()


def sources(images: int = 2, size: tuple[int, int] = SIZE) -> list[LabeledBatch]:
    """A batch a step, in float64."""
    batches = []
    for seed in range(STEPS):
        rng = torch.Generator().manual_seed(seed)
        coarse = torch.randint(0, C, (images, 1, size[0] // 8, size[1] // 8), generator=rng).float()
        label = F.interpolate(coarse, size)[:, 0].long()
        label[:, 0] = 255
        image = torch.randn(images, 3, *size, generator=rng).double() + 0.1 * coarse.mean()
        batches.append(LabeledBatch(image, label, torch.arange(images)))
    return batches


def targets(images: int = 2, size: tuple[int, int] = SIZE) -> list[UnlabeledBatch]:
    rngs = [torch.Generator().manual_seed(1000 + seed) for seed in range(STEPS)]
    return [UnlabeledBatch(torch.randn(images, 3, *size, generator=rng).double(), torch.arange(images)) for rng in rngs]


def context(network: Segmenter, previous: Segmenter | None = None, handed_on: Any = None) -> StageContext:
    """Of a stage that trains a copy of a network."""
    first, before = copy.deepcopy(network), copy.deepcopy(previous or network)
    return StageContext(first, before, copy.deepcopy(first), SPACE, handed_on or {})


def stage_of(recipe: str, name: str, of: StageContext, changes: Mapping[str, Any] | None = None) -> Any:
    """A stage as a recipe has it at the papers' scale, but for ``changes``: sizes that fit a toy, rates and weights
    whose effect is seen in four steps."""
    overrides = [f"stages.{name}.{key}={json.dumps(value)}" for key, value in (changes or {}).items()]
    return load_recipe(recipe, None, overrides).stages[name].build(of)


def train(
    stage: Stage, source: Sequence[Any], target: Sequence[Any], double: bool = True, prepare: bool = True,
    look: Any = None,
) -> None:  # fmt: skip
    """Prepare a stage and take a step with each pair of batches, as a run does; in float64 where its memories allow."""
    precision = torch.float64 if double else torch.float32
    stage.to(precision)
    source, target = (
        [batch and replace(batch, image=batch.image.to(precision)) for batch in side] for side in (source, target)
    )
    if prepare:
        stage.eval()
        stage.prepare(Passes(source, target, None, look=look))  # pyright: ignore[reportArgumentType]
    stage.train()
    fabric, trained = Fabric(accelerator="cpu", devices=1), stage.optimizers()
    average, settings = GradientAverage(fabric, stage, trained), LoopSettings(len(source))
    for number, pair in enumerate(zip(source, target, strict=True)):
        one_step(fabric, "stage", stage, trained, settings, number, (*pair, None), average)


def dice(number: int, images: int = 2) -> list[torch.Generator]:
    """The images' generators at a step of ``train``."""
    return [generator(0, "stage", "sample", number, place) for place in range(images)]


class Descent:
    """SGD with momentum, or AdamW, by hand: encoder at the rate of the step, all else at ``heads`` times it; weights
    decay, biases and norms do not."""

    def __init__(
        self, network: Segmenter, rate: Callable[[int], float], decay: float, heads: float = 10.0,
        beside: Iterable[nn.Parameter] = (), adam: bool = False,
    ) -> None:  # fmt: skip
        self.rate, self.decay, self.heads, self.adam = rate, decay, heads, adam
        self.encoder = {id(parameter) for parameter in network.backbone_parameters()}
        self.parameters = [parameter for parameter in (*network.parameters(), *beside) if parameter.requires_grad]
        self.first = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.second = [torch.zeros_like(parameter) for parameter in self.parameters]

    def step(self, number: int, loss: Tensor) -> None:
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        with torch.no_grad():
            for place, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
                if gradient is None:
                    continue
                rate = self.rate(number) * (1 if id(parameter) in self.encoder else self.heads)
                decay, first, second = self.decay * (parameter.ndim > 1), self.first[place], self.second[place]
                if self.adam:
                    first.mul_(0.9).add_(0.1 * gradient)
                    second.mul_(0.999).add_(0.001 * gradient**2)
                    ahead = (first / (1 - 0.9 ** (number + 1))), (second / (1 - 0.999 ** (number + 1)))
                    parameter.mul_(1 - rate * decay).sub_(rate * ahead[0] / (ahead[1].sqrt() + 1e-8))
                else:
                    first.mul_(0.9).add_(gradient + decay * parameter)
                    parameter.sub_(rate * first)


def poly(lr: float, horizon: float, power: float = 0.9) -> Callable[[int], float]:
    return lambda number: lr * (1 - number / horizon) ** power


@torch.no_grad()
def follow(old: nn.Module, new: nn.Module, decay: float, buffers: bool = False) -> None:
    """A moving average of parameters, and of floating buffers if so asked."""
    olds, news = ([*module.parameters(), *(statistics(module) if buffers else ())] for module in (old, new))
    for one, other in zip(olds, news, strict=True):
        one.mul_(decay).add_((1 - decay) * other)


def ramp(number: int, decay: float = 0.7) -> float:
    return min(1 - 1 / (number + 1), decay)


def measure(network: Toy, target: Sequence[UnlabeledBatch]) -> None:
    """Batch norm's statistics anew: the mean of the batches'."""
    for norm in (network.fine_norm, network.coarse_norm):
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        for batch in target:
            network.train()(batch.image)
    for norm in (network.fine_norm, network.coarse_norm):
        norm.momentum = 0.1


@contextmanager
def still(network: Toy) -> Iterator[None]:
    """Within, a pass leaves batch norm's statistics alone."""
    network.fine_norm.momentum = network.coarse_norm.momentum = 0.0
    yield
    network.fine_norm.momentum = network.coarse_norm.momentum = 0.1


def statistics(module: nn.Module) -> list[Tensor]:
    """Its floating buffers."""
    return [buffer for buffer in module.buffers() if buffer.is_floating_point()]


def up(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def shrunk(pixels: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(pixels[:, None].double(), tuple(size), mode="nearest-exact")[:, 0]


def cross_entropy(logits: Tensor, label: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Over all pixels, ignored ones among them."""
    of_pixels = F.cross_entropy(up(logits, label.shape[-2:]), label, ignore_index=255, reduction="none")
    return (weight * of_pixels).mean()


def class_mixed(
    source: LabeledBatch, target: Tensor, label: Tensor, weight: Tensor, rngs: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ClassMix -> image, label, weight, and where the source shows."""
    classes = draw_mix_classes(source.label, rngs)
    pasted = torch.stack([torch.isin(one, chosen) for one, chosen in zip(source.label, classes, strict=True)])
    image = torch.where(pasted[:, None], source.image, target)
    return image, torch.where(pasted, source.label, label), torch.where(pasted, 1.0, weight), pasted


def furthest(mine: nn.Module | Sequence[Tensor], theirs: nn.Module | Sequence[Tensor]) -> float:
    """The largest difference of two states, in units of the largest number of each tensor. Below a millionth there is
    only rounding: of a bias before a batch norm, that Adam divides by itself."""
    ours, others = (
        [*(state.parameters() if isinstance(state, nn.Module) else state)] for state in (mine, theirs)
    )  # fmt: skip
    pairs = zip(ours, others, strict=True)
    return max(((one - other).abs().max() / other.abs().max().clamp(min=1e-6)).item() for one, other in pairs)


def swapped(content, style, share):
    """FDA's low_freq_mutate_np: the amplitudes c - b to c + b of the shifted spectrum, the content's phase."""
    spectrum, height, width = np.fft.fft2(content), *content.shape[-2:]
    amplitude, theirs = (np.fft.fftshift(np.abs(each), axes=(-2, -1)) for each in (spectrum, np.fft.fft2(style)))
    half, row, column = int(np.floor(min(height, width) * share)), height // 2, width // 2
    low = (..., slice(max(row - half, 0), row + half + 1), slice(max(column - half, 0), column + half + 1))
    amplitude[low] = theirs[low]
    amplitude = np.fft.ifftshift(amplitude, axes=(-2, -1))
    return np.real(np.fft.ifft2(amplitude * np.exp(1j * np.angle(spectrum))))
