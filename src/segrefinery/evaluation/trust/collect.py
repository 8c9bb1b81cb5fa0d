"""One bounded look at a model on target images: all that the label-free scores are computed from.

Every model is looked at on the same images, the same pixels and the same perturbations; they depend on the seed and
the data alone. What is kept is small and adds up over images, so that images can be drawn again in a bootstrap.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrefinery.core.files import unreadable, whole_file
from segrefinery.core.randomness import generator
from segrefinery.data.mixing import cutmix
from segrefinery.data.photometric import denormalize, gaussian_blur, jitter_colors, normalize
from segrefinery.data.transforms import DataSettings, resize_for_evaluation, resize_image
from segrefinery.evaluation.inference import Size, device_of, logits_at, sliding_probs
from segrefinery.evaluation.trust.scores import joint_counts, soft_neighborhood_density
from segrefinery.models.segmenter import normalization_of

SEED = 9
IMAGES = 32
PIXELS = 2000
NEIGHBORS = 500
"""Pixels an image of the neighbourhood density, whose cost grows with their square."""
VIEWS = ("photometric", "flip", "scale", "mix")
JITTER, BLUR, ZOOM = 0.25, 0.7, 0.75
"""Strength of the photometric view, its blur in pixels, and the factor of the scaled view."""


@dataclass
class Observation:
    """What a model said of N target images.

    Attributes:
        names: the images.
        probs: N x P x C float16, class probabilities at the sampled pixels.
        views: perturbation -> N x C x C int64, joint counts of the plain prediction (rows) and the perturbed one.
        stable: N x P bool, pixels whose class no perturbation of the image itself changed.
        density: N, soft neighbourhood density of each image.
    """

    names: list[str]
    probs: Tensor
    views: dict[str, Tensor]
    stable: Tensor
    density: Tensor

    @property
    def num_classes(self) -> int:
        return self.probs.shape[-1]

    @property
    def classes(self) -> Tensor:
        """N x P int64: the predicted classes."""
        return self.probs.float().argmax(dim=-1)

    @property
    def shares(self) -> Tensor:
        """C: how much of the sampled pixels each class has."""
        counts = torch.bincount(self.classes.flatten(), minlength=self.num_classes).double()
        return counts / counts.sum().clamp(min=1)

    def save(self, path: Path) -> None:
        """Keep it as an ``.npz`` file."""
        arrays: dict[str, Any] = {f"view_{name}": counts.numpy() for name, counts in self.views.items()}
        arrays |= {"probs": self.probs.numpy(), "stable": self.stable.numpy(), "density": self.density.numpy()}
        with whole_file(path) as file:
            np.savez_compressed(file, names=np.array(self.names), **arrays)

    @classmethod
    def load(cls, path: Path) -> Observation:
        """Read what ``save`` wrote.

        Raises:
            SegRefineryError: the file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(
                    [str(name) for name in file["names"]],
                    torch.from_numpy(file["probs"]),
                    {name: torch.from_numpy(file[f"view_{name}"]) for name in VIEWS},
                    torch.from_numpy(file["stable"]),
                    torch.from_numpy(file["density"]),
                )
        except (OSError, ValueError, TypeError, EOFError, KeyError, BadZipFile, zlib.error) as error:
            raise unreadable(path, error, "delete it and continue with --resume, which makes it again") from error


def sample_images(dataset: Any, count: int = IMAGES, seed: int = SEED) -> list[int]:
    """Indices of ``count`` images, all of them if there are fewer; the same for every model."""
    order = torch.randperm(len(dataset), generator=generator(seed, "trust images", len(dataset)))
    return sorted(order[:count].tolist())


def sample_pixels(name: str, size: Size, count: int = PIXELS, seed: int = SEED) -> Tensor:
    """``count`` flat pixel indices into an image of this size, with replacement.

    Drawn as fractions of height and width, so that models that read the image at other sizes look at the same places.
    """
    place = torch.rand(2, count, generator=generator(seed, "trust pixels", name))
    rows, columns = (place[0] * size[0]).long(), (place[1] * size[1]).long()
    return rows.clamp(max=size[0] - 1) * size[1] + columns.clamp(max=size[1] - 1)


@torch.no_grad()
def look(
    network: nn.Module,
    dataset: Any,
    data: DataSettings,
    num_classes: int,
    window: Size | None = None,
    *,
    images: Sequence[int] | None = None,
    places: Sequence[int] | None = None,
    pixels: int = PIXELS,
    seed: int = SEED,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Observation:
    """Look at a model on a fixed sample of images: six forward passes an image, one image in memory at a time.

    Args:
        network: a segmenter; it is put in eval mode and back.
        dataset: images with names; labels are not asked for.
        data: how images are resized and normalised. window: of sliding windows, or None.
        images: indices; by default ``sample_images(dataset, seed=seed)``.
        places: which of these are looked at here, where processes share them; None for all. An image is mixed with the
            next one of all.
    """
    was_training = network.training
    network.eval()
    data = data.read_by(normalization_of(network))
    chosen = list(sample_images(dataset, seed=seed) if images is None else images)
    names, probs, stable, density = [], [], [], []
    views: dict[str, list[Tensor]] = {view: [] for view in VIEWS}
    places = range(len(chosen)) if places is None else places
    for done, place in enumerate(places, 1):
        index = chosen[place]
        name, raw = dataset.name(index), dataset.image(index)
        image = resize_for_evaluation(raw, data)[None].to(device_of(network))
        size = (image.shape[-2], image.shape[-1])
        at = sample_pixels(name, size, pixels, seed).to(image.device)
        sampled = probs_at(network, image, size, window)[0].flatten(1)[:, at]
        labels = sampled.argmax(dim=0)
        kept = torch.ones(len(at), dtype=torch.bool)
        for view in ("photometric", "flip", "scale"):
            moved = perturbed(network, image, view, data, window, generator(seed, "trust view", view, name))
            classes = moved[0].flatten(1)[:, at].argmax(dim=0)
            views[view].append(joint_counts(labels, classes, num_classes))
            kept &= (labels == classes).cpu()
        other = resize_image(dataset.image(chosen[(place + 1) % len(chosen)]), size)
        partner = normalize(other, *data.normalization)[None].to(image)
        expected, moved_labels = mixed(network, image, labels, partner, at, window, generator(seed, "trust mix", name))
        views["mix"].append(joint_counts(expected, moved_labels, num_classes))
        sampled = sampled.T.cpu()
        names.append(name)
        probs.append(sampled.half())
        stable.append(kept)
        density.append(soft_neighborhood_density(sampled[:NEIGHBORS]))
        progress(done, len(places))
    network.train(was_training)
    joint = {view: _rows(counts, (num_classes, num_classes), torch.int64) for view, counts in views.items()}
    all_probs = _rows(probs, (pixels, num_classes), torch.float16)
    return Observation(names, all_probs, joint, _rows(stable, (pixels,), torch.bool), _rows(density, (), torch.float64))


def _rows(values: list[Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """One row an image; there may be none."""
    return torch.stack(values) if values else torch.zeros(0, *shape, dtype=dtype)


def perturbed(
    network: nn.Module, image: Tensor, view: str, data: DataSettings, window: Size | None, random: torch.Generator
) -> Tensor:
    """Class probabilities of a perturbed 1 x 3 x H x W image, brought back to the image's own geometry."""
    size = (image.shape[-2], image.shape[-1])
    if view == "flip":
        return probs_at(network, image.flip(-1), size, window).flip(-1)
    if view == "scale":
        small = (max(1, round(size[0] * ZOOM)), max(1, round(size[1] * ZOOM)))
        return probs_at(network, F.interpolate(image, small, mode="bilinear", antialias=True), size, window)
    plain = denormalize(image[0], *data.normalization).cpu()
    changed = gaussian_blur(jitter_colors(plain, JITTER, random), BLUR).clamp(0, 1)
    return probs_at(network, normalize(changed, *data.normalization)[None].to(image), size, window)


def mixed(
    network: nn.Module,
    image: Tensor,
    labels: Tensor,
    partner: Tensor,
    at: Tensor,
    window: Size | None,
    random: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """At the pixels ``at``: the mix of two predictions and the prediction on the mix, both P classes.

    Half of the image is covered by a rectangle of the partner. The rectangle is drawn by the seed and not from the
    model's classes as in ClassMix, so that every model sees the same mixed images.
    """
    size = (image.shape[-2], image.shape[-1])
    none = torch.zeros(1, *size, dtype=torch.int64, device=image.device)
    both, _, pasted = cutmix(partner, none, image, none, [random])
    theirs = probs_at(network, partner, size, window)[0].flatten(1)[:, at].argmax(dim=0)
    mixed_labels = probs_at(network, both, size, window)[0].flatten(1)[:, at].argmax(dim=0)
    return torch.where(pasted.flatten()[at], theirs, labels), mixed_labels


def probs_at(network: nn.Module, image: Tensor, size: Size, window: Size | None) -> Tensor:
    """1 x C x ``size`` float32 class probabilities of a normalised image, whole or by overlapping windows."""
    if window is None or (image.shape[-2] <= window[0] and image.shape[-1] <= window[1]):
        return logits_at(network, image, size).float().softmax(dim=1)
    return sliding_probs(network, image, window, size)
