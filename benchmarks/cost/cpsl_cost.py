"""What CPSL and ProDA cost beside their network, piece by piece, as Markdown tables.

    python benchmarks/cost/cpsl_cost.py [--threads 2] [--runs 7] [--device cpu]

A batch of 4 crops of 512 x 896 with features of 256 channels at a quarter of that, 19 classes, a bank of 65,536
pixels. On a busy machine read the processor time, with ``--threads 1``: it counts only this process.
"Official" is the best cost of the authors' code that we observed for the same work on a machine with two cores.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrefinery.core.randomness import generator
from segrefinery.data.augment import affine_strong_view
from segrefinery.data.batch import LabeledBatch, MixedBatch
from segrefinery.labels import LabelSpace
from segrefinery.models.segmenter import Prediction, Segmenter
from segrefinery.models.teacher import Teacher, TeacherView
from segrefinery.refine.base import PseudoLabels, Refiner, SourceStep, Step, TargetStep
from segrefinery.refine.prototypes.formulas import move_prototypes, prototype_weights
from segrefinery.refine.prototypes.refiner import PrototypesSettings
from segrefinery.refine.self_labeling.bank import FeatureBank
from segrefinery.refine.self_labeling.formulas import (
    balanced_positions,
    cosine_similarities,
    rectify,
    sinkhorn,
    update_class_distribution,
)
from segrefinery.refine.self_labeling.refiner import SelfLabelingSettings

BATCH, CLASSES, CHANNELS, BANK, SAMPLES = 4, 19, 256, 65_536, 512
CROP, GRID = (512, 896), (128, 224)
# Class shares of Cityscapes as a GTA5 network labels it: road has 309 times the pixels of motorcycle.
SHARES = (
    0.37922, 0.04930, 0.22665, 0.01551, 0.01721, 0.01403, 0.00219, 0.00221, 0.13338, 0.02424,
    0.04341, 0.01315, 0.00161, 0.06605, 0.00408, 0.00279, 0.00185, 0.00123, 0.00191,
)  # fmt: skip


class Given(Segmenter):
    """A network that costs nothing: it answers with ready-made features and logits."""

    num_classes, feature_channels = CLASSES, CHANNELS
    level_channels = learner_channels = (CHANNELS,)

    def __init__(self, features: Tensor, logits: Tensor) -> None:
        super().__init__()
        self.features, self.logits = nn.Parameter(features), nn.Parameter(logits)

    def forward(self, image: Tensor) -> Prediction:
        return Prediction(self.logits, self.features)


def batch_of(device: str) -> tuple[Step, Tensor]:
    """A step with features that lie around class prototypes, and the prototypes."""
    rng = torch.Generator().manual_seed(0)
    truth = torch.multinomial(torch.tensor(SHARES), BATCH * GRID[0] * GRID[1], replacement=True, generator=rng)
    prototypes = torch.randn(CLASSES, CHANNELS, generator=rng)
    noise = torch.randn(len(truth), CHANNELS, generator=rng)
    features = (prototypes[truth] + noise).view(BATCH, *GRID, CHANNELS).permute(0, 3, 1, 2).contiguous().to(device)
    prototypes = prototypes.to(device)
    logits = 20 * cosine_similarities(features, prototypes)
    image = torch.randn(BATCH, 3, *CROP, generator=rng).to(device)
    student = Given(features.clone(), logits.clone())
    view = TeacherView(logits, features, image=image)
    index = torch.arange(BATCH)
    source = LabeledBatch(image, torch.zeros(BATCH, *CROP, dtype=torch.int64, device=device), index)
    mixed = MixedBatch(image, source.label, torch.ones(BATCH, *CROP), torch.zeros(BATCH, *CROP, dtype=torch.bool))
    target = TargetStep(Teacher(student), view, PseudoLabels.from_view(view), mixed.to(device), student(image))
    random = [generator("cost", slot) for slot in range(BATCH)]
    return Step(0, student, SourceStep(source, student(image)), target, generators=random), prototypes


def whole_step(refiner: Refiner, step: Step) -> Callable[[], None]:
    """All that a refiner does in a training step, its losses' gradients included."""

    def run() -> None:
        target = step.target
        assert target is not None
        assert target.view is not None
        with torch.no_grad():
            target.labels = refiner(target.view, PseudoLabels.from_view(target.view))
        losses = refiner.losses(step)
        torch.stack(list(losses.values())).sum().backward()
        step.student.zero_grad()
        refiner.zero_grad()
        refiner.remember(step)
        refiner.after_step(step)

    return run


def cost(work: Callable[[], object], runs: int, device: str) -> tuple[float, float, float, float]:
    """Median and least time and least processor time in ms, and the memory in MiB beside what was there before."""
    work()
    before = memory(device, reset=True)
    times, busy = [], []
    for _ in range(runs):
        start, processor = time.perf_counter(), time.process_time()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
        busy.append(1e3 * (time.process_time() - processor))
    return statistics.median(times), min(times), min(busy), memory(device) - before


def memory(device: str, reset: bool = False) -> float:
    """Peak memory in MiB since the last reset, or the present one when resetting; of the process (Linux) or the GPU."""
    if device != "cpu":
        if reset:
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated() / 2**20
        return torch.cuda.max_memory_allocated() / 2**20
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not clear.exists():
        return float("nan")
    if reset:
        clear.write_text("5")
    key = "VmRSS:" if reset else "VmHWM:"
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def pieces(device: str) -> list[tuple[str, Callable[[], object], float | None]]:
    """Name, work, and the official code's cost in ms where we have it."""
    step, prototypes = batch_of(device)
    assert step.target is not None
    assert step.target.view is not None
    features, image, labels = step.target.view.features, step.target.view.image, step.target.labels
    shares = torch.tensor(SHARES, device=device)
    bank = FeatureBank(BANK, CHANNELS).to(device)
    rows = F.normalize(features[0].flatten(1)[:, :256].T, dim=1)
    bank.push(F.normalize(torch.randn(BANK, CHANNELS, device=device) + prototypes.repeat(3450, 1)[:BANK], dim=1))
    directions = F.normalize(prototypes, dim=1)
    scores = torch.cat([bank.content, rows]) @ directions.T
    clusters = (cosine_similarities(features, prototypes) / 0.08).softmax(dim=1)
    hard = labels.labels
    flat = hard.flatten(1).cpu()

    space = LabelSpace.of("cost", [f"class {index}" for index in range(CLASSES)])
    proda = PrototypesSettings(soft_labels="chain").build(step.student, space).to(device)
    proda.prototypes.copy_(prototypes)
    cpsl = SelfLabelingSettings(soft_labels="chain", samples=SAMPLES).build(step.student, space).to(device)
    cpsl.bank.push(bank.content)
    with torch.no_grad():
        cpsl.head.copy_(directions)
        cpsl.head_copy.copy_(directions)
        cpsl.distribution.copy_(shares)
    return [
        ("bank push, 256 rows", lambda: bank.push(rows), 18),
        ("scores, 65,792 x 19", lambda: ((directions @ bank.content.T).T, rows @ directions.T), 9.1),
        ("Sinkhorn, 65,792 x 19, 3 iterations", lambda: sinkhorn(scores, shares), 2.5),
        ("prototype weights, ProDA", lambda: prototype_weights(features, prototypes), 1500),
        ("prototype weights, CPSL", lambda: (cosine_similarities(features, prototypes) / 0.08).softmax(dim=1), 420),
        ("rectification", lambda: rectify(clusters, labels.probs), None),
        (
            "prototype statistics",
            lambda: move_prototypes(prototypes, features, hard, 0.9999, "batch", 10),
            5700,
        ),
        ("class distribution", lambda: update_class_distribution(shares, hard, 0.999), None),
        (
            "balanced sampling, 4 x 512",
            lambda: [balanced_positions(one, SAMPLES, generator("draw")) for one in flat],
            None,
        ),
        (
            "affine strong view of the crops",
            lambda: affine_strong_view(image, [generator("view", slot) for slot in range(BATCH)]),
            None,
        ),
        ("ProDA step without its network", whole_step(proda, step), 10_300),
        ("CPSL step without its network", whole_step(cpsl, step), 2_700),
    ]


def print_costs(runs: int, device: str) -> None:
    print("| piece | median ms | least ms | processor ms | extra memory MiB | official ms | official / median |")
    print("|---|---|---|---|---|---|---|")
    for name, work, official in pieces(device):
        with torch.set_grad_enabled("step" in name):
            median, least, busy, extra = cost(work, runs, device)
        beside = f"{official:,} | {official / median:.1f} x" if official else "— | —"
        print(f"| {name} | {median:.1f} | {least:.1f} | {busy:.1f} | {extra:.0f} | {beside} |")


def print_marginals() -> None:
    """How far Sinkhorn stays from the class shares, on cosine scores of pixels around prototypes."""
    rng = torch.Generator().manual_seed(0)
    shares = torch.tensor(SHARES) / sum(SHARES)
    truth = torch.multinomial(shares, BANK + 256, replacement=True, generator=rng)
    prototypes = torch.randn(CLASSES, CHANNELS, generator=rng)
    pixels = F.normalize(prototypes[truth] + 2 * torch.randn(len(truth), CHANNELS, generator=rng), dim=1)
    scores = pixels @ F.normalize(prototypes, dim=1).T
    print("\n| iterations | L1 to the class marginal | worst class off by | with scores of up to ±50 |")
    print("|---|---|---|---|")
    for iterations in (3, 10, 50):
        found = sinkhorn(scores, shares, iterations=iterations).mean(dim=0)
        off = (found - shares).abs()
        wide = sinkhorn(scores / scores.abs().max() * 50, shares, iterations=iterations)
        sound = "finite, rows sum to 1" if bool(((wide.sum(dim=1) - 1).abs() < 1e-4).all()) else "broken"
        print(f"| {iterations} | {off.sum():.4f} | {100 * (off / shares).max():.1f} % | {sound} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print_costs(options.runs, options.device)
    print_marginals()


if __name__ == "__main__":
    main()
