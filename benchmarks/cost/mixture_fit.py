"""How long the entropy mixtures of an image take, beside scikit-learn's GaussianMixture on the same values.

    python benchmarks/cost/mixture_fit.py [--classes 19] [--size 512 1024] [--repeats 5]

Entropies are synthetic: each class has a certain and an uncertain mode, of its own place, width and share. Both sides
stop at a mean log-likelihood that moves by less than 1e-6, and hold variances above 1e-4. Times are of one thread: the
best of several runs.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import sklearn
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from segrefinery.core.processor import keep_freed_memory
from segrefinery.models.teacher import TeacherView
from segrefinery.refine.base import PseudoLabels
from segrefinery.refine.confidence import normalized_entropy
from segrefinery.refine.entropy_mixture.refiner import EntropyMixture, EntropyMixtureSettings


def entropies(classes: int, height: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """1 x H x W entropies and predicted classes, whose shares fall by a constant factor."""
    rng = torch.Generator().manual_seed(seed)
    shares = 0.8 ** torch.arange(classes)
    label = torch.multinomial(shares, height * width, replacement=True, generator=rng)

    def draw(low: float, high: float) -> Tensor:
        return (torch.rand(classes, generator=rng) * (high - low) + low)[label]

    noise = torch.randn(height * width, generator=rng)
    certain = draw(0.05, 0.15) + noise * draw(0.02, 0.05)
    uncertain = draw(0.4, 0.7) + noise * draw(0.08, 0.15)
    pick = torch.rand(height * width, generator=rng) < draw(0.5, 0.9)
    values = torch.where(pick, certain, uncertain).clamp(0, 1)
    return values.view(1, height, width), label.view(1, height, width)


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The fastest of ``repeats`` runs after one that does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def reference(samples: list[np.ndarray]) -> list[GaussianMixture]:
    """scikit-learn's fit of each class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that does not converge in 100 iterations says so
        return [GaussianMixture(2, tol=1e-6, reg_covar=1e-4, random_state=0).fit(values) for values in samples]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--classes", type=int, default=19)
    options.add_argument("--size", type=int, nargs=2, default=(512, 1024))
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--images", type=int, default=3000, help="images that the per-image time is multiplied by")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the command line does
    entropy, label = entropies(chosen.classes, *chosen.size, seed=0)

    refiner = EntropyMixture(EntropyMixtureSettings(), chosen.classes)

    def ours():  # from entropies to mixtures: binning and fits
        counts, _ = refiner._gather(entropy, label)
        return refiner._mixtures(counts[0])

    own = ours()
    ours_time = seconds(ours, chosen.repeats)

    samples = [entropy[label == c][:, None].double().numpy() for c in range(chosen.classes)]
    theirs_time = seconds(lambda: reference(samples), 2)
    theirs = reference(samples)
    means = np.stack([np.sort(fit.means_[:, 0]) for fit in theirs])
    apart = np.abs(own.means.numpy() - means).max(axis=1)

    logits = torch.randn(1, chosen.classes, *chosen.size, generator=torch.Generator().manual_seed(1)) * 3
    labels = PseudoLabels(logits.softmax(1), torch.ones(1, *chosen.size))
    view = TeacherView(logits, logits, image=logits[:, :3])
    whole = seconds(lambda: refiner(view, labels), chosen.repeats)
    entropy_only = seconds(lambda: (normalized_entropy(labels.probs), labels.probs.max(1)), chosen.repeats)

    height, width = chosen.size
    print(f"{platform.processor() or platform.machine()}, 1 thread, torch {torch.__version__}, "
          f"scikit-learn {sklearn.__version__}; {chosen.classes} classes, {height} x {width} pixels\n")  # fmt: skip
    print(f"| work on one image | seconds | {chosen.images} images |")
    print("|---|---|---|")
    for name, value in (
        ("scikit-learn: one GaussianMixture a class", theirs_time),
        ("ours: bins and batched fits", ours_time),
        ("the whole refiner on probabilities", whole),
        ("of which entropy and most probable class", entropy_only),
    ):
        print(f"| {name} | {value:.3f} | {value * chosen.images / 60:.1f} min |")
    within = f"within 0.01 in {int((apart <= 0.01).sum())} of {len(apart)} classes"
    print(f"\nFaster by {theirs_time / ours_time:.0f} times. Means apart: at most {apart.max():.4f}; {within}.")


if __name__ == "__main__":
    main()
