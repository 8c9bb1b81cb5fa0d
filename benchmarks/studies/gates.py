"""What each method could gain on a task, in minutes and before it is run. Prints Markdown.

    python benchmarks/studies/gates.py --task scenes
    python benchmarks/studies/gates.py --task carla2camvid --images 50 --steps 100     # also day2dusk; see data.md

A network is trained on the source alone (``source_only``, resumable, kept beside the cells of the studies), and then:

1. warm-up: how right it is on source images that it was not trained on, and on the target;
2. IR2F: how often its two classifiers disagree, and the score of a perfect choice between them;
3. UncerDA: how much more often each class is seen under target-guided sampling;
4. UncerDA: how precise labels are that mixtures keep, beside thresholds that keep as many;
5. SAM: whether the attended prediction is at least as good as the prediction on source validation;
6. PRN: whether refined labels are better than the teacher's on source validation, and on the target where the
   refinement network may learn from target labels on unspoiled logits;
7. CPSL: how precise clusters are, and the teacher on the same pixels.

What the methods train (5 to 7) is trained as their recipes say, beside a network that stays as it is. Each part is
printed as it is found; all are kept in ``benchmarks/results/gates/TASK.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import segrefinery

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib import gates
from lib.machine import machine
from lib.results import CELLS, RESULTS
from lib.spread import Spread
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.datasets import Remapped, UnlabeledView, open_dataset
from segrefinery.data.loader import Pass, training_batches
from segrefinery.data.sampling import UniformSampler
from segrefinery.data.scan import class_pixel_counts
from segrefinery.engine.model import Model
from segrefinery.evaluation.inference import evaluate_network
from segrefinery.models.teacher import Teacher
from segrefinery.recipe import Recipe, load_recipe
from segrefinery.stages.base import StageSettings


@dataclass(frozen=True)
class Task:
    """Data sets as NAME:PATH[@SPLIT].

    Attributes:
        source, validation: labelled, to train on and not.
        target, test: the target's training images, whose labels only the last part of PRN's gate reads, and its test.
    """

    source: str
    validation: str
    target: str
    test: str


CARLA, CAMVID = "folder:benchmarks/data/carla.yaml", "folder:benchmarks/data/camvid.yaml"
TASKS = {
    "scenes": Task(
        "scenes:day,count=400@train", "scenes:day,count=100@test",
        "scenes:night,count=400@train", "scenes:night,count=100@test",
    ),
    "carla2camvid": Task(
        f"{CARLA}@source_train", f"{CARLA}@source_val", f"{CAMVID}@cross_target_train", f"{CAMVID}@cross_target_test"
    ),
    "day2dusk": Task(f"{CAMVID}@day_train", f"{CAMVID}@day_val", f"{CAMVID}@dusk_train", f"{CAMVID}@dusk_test"),
}  # fmt: skip


class Gates:
    """A task's source-only model, its data in the model's classes, and a part of the page for each gate.

    Args:
        run: the folder of the source-only run.
        images: at most so many of each set that is measured on.
        steps: of what a method trains; None = as its recipe says.
        overrides: of the methods' recipes, whose scale is the run's.
    """

    def __init__(self, task: Task, run: Path, scale: str, images: int, steps: int | None, overrides: Sequence[str]):
        self.scale, self.steps, self.overrides = scale, steps, overrides
        self.recipe: Recipe = load_recipe(run / "recipe.yaml")
        self.model: Model = segrefinery.load(run)
        self.source, target_labels = self.labelled(task.source), self.labelled(task.target)
        self.validation, self.test = (Spread(self.labelled(name), images) for name in (task.validation, task.test))
        target = UnlabeledView(open_dataset(task.target))
        whole = partial(Pass, settings=self.model.data, workers=0)
        self.ground = gates.Ground(
            Teacher(self.model.segmenter),
            self.model.space,
            whole(self.validation),
            whole(target),
            whole(self.test),
            partial(self.pairs, self.source, target),
            partial(self.pairs, target_labels, target),
        )

    def labelled(self, name: str) -> Remapped:
        return Remapped(open_dataset(name), self.model.space, self.model.merge)  # pyright: ignore

    def pairs(self, labelled: Any, target: Any, steps: int) -> Iterator[tuple[Any, Any]]:
        """Augmented batches for so many steps."""
        sides = ((labelled, self.recipe.data, 0), (target, self.recipe.target_data, 1))
        batches = (
            training_batches(one, data, UniformSampler(len(one), seed), steps=steps) for one, data, seed in sides
        )
        return zip(*batches, strict=True)

    def method(self, recipe: str, refiner: str) -> tuple[StageSettings, Any, int]:
        """The first stage of a recipe that has a refiner, the refiner's settings, and the steps to train it."""
        for stage in load_recipe(recipe, self.scale, self.overrides).stages.values():
            chain = getattr(stage, "refine", {})
            if refiner in chain:
                return stage, chain[refiner], self.steps or stage.steps
        raise SegRefineryError(f"recipe {recipe}: no stage has {refiner}")

    def trained(
        self, recipe: str, refiner: str, changes: dict[str, Any], taught: bool = False, fit: bool = False
    ) -> Any:
        """A recipe's refiner, trained beside the network; on the target's labels if ``taught``."""
        stage, settings, steps = self.method(recipe, refiner)
        torch.manual_seed(0)
        built = settings.model_copy(update=changes).build(self.model.segmenter, self.model.space)
        if fit:
            built.fit(self.ground.teacher, Pass(self.source, self.model.data, workers=0), self.ground.target)
        pairs = self.ground.taught_pairs if taught else self.ground.source_pairs
        gates.train(self.ground, built, pairs(steps), stage.optimizer, steps)
        return built

    # -- the parts -----------------------------------------------------------------------------------------------------

    def warm_up(self) -> str:
        """1. The plain scores, at the reference's own resolution."""
        model, scores = self.model, {}
        for name, data in (("source validation", self.validation), ("target test", self.test)):
            found = evaluate_network(model.network, data, model.data, model.space.num_classes, model.window)
            scores[name] = found.total
        return table(("set", "pixel accuracy", "mIoU"), ((name, *score(one)) for name, one in scores.items()))

    def two_classifiers(self) -> str:
        """2. IR2F's head-room."""
        lines = []
        for name, data in (("source validation", self.ground.validation), ("target test", self.ground.test)):
            scores, differ = gates.two_classifiers(self.ground, data)
            lines += [(name, who, *score(one), percent(differ)) for who, one in scores.items()]
        return table(("set", "labels", "pixel accuracy", "mIoU", "pixels on which they differ"), lines)

    def guided_sampling(self) -> str:
        """3. Gain by class: 1 is even sampling."""
        counts = class_pixel_counts(self.source)
        stage: Any = load_recipe("uncerda_aa", self.scale, self.overrides).stages["align"]
        midpoints = {f"midpoint {stage.midpoint}": stage.midpoint, "midpoint 0.05": 0.05, "midpoint 0.1": 0.1}
        worst, gains = gates.guided_sampling(self.ground, counts, midpoints, stage.uncertain)
        classes = self.model.space.classes
        lines = (
            (
                name + (" (uncertain)" if place in worst else ""),
                *(f"{float(gain[place]):.2f}" for gain in gains.values()),
            )
            for place, name in enumerate(classes)
        )
        return table(("class", *gains), lines)

    def equal_coverage(self) -> str:
        """4. Mixtures against thresholds that keep as many."""
        _, settings, _ = self.method("uncerda", "entropy_mixture")
        found = gates.equal_coverage(self.ground, settings)
        lines = ((name, percent(coverage), percent(precision)) for name, (coverage, precision) in found.items())
        return table(("labels kept", "coverage", "precision"), lines)

    def attended(self) -> str:
        """5. SAM's attention, trained on the source."""
        refiner = self.trained("pixel_attention", "pixel_attention", {})
        return self.on_both(partial(gates.attended, self.ground, refiner))

    def refined(self) -> str:
        """6. PRN's network, trained on the source, and as far as target labels could take it."""
        refiner = self.trained("prn", "refinement_network", {"augment_source": False})
        taught = self.trained(
            "prn", "refinement_network", {"augment_source": False, "perturbation": "none"}, taught=True
        )
        found = gates.refined(self.ground, taught, self.ground.test)
        last = (("target test", "refined, taught by target labels", *score(found["refined"])),)
        return self.on_both(partial(gates.refined, self.ground, refiner), last)

    def clusters(self) -> str:
        """7. CPSL's clusters after their training, and the teacher on the same pixels."""
        changes = {"soft_labels": "chain", "consistency_weight": 0.0}
        refiner = self.trained("cpsl", "self_labeling", changes, fit=True)
        every, differ = gates.clusters(self.ground, refiner)
        share = float(differ["teacher"].matrix.sum() / every["teacher"].matrix.sum())
        where = {"all": every, f"where teacher and clusters differ ({percent(share)} %)": differ}
        lines = ((name, who, *score(one)) for name, scores in where.items() for who, one in scores.items())
        return table(("pixels", "labels", "precision", "mIoU"), lines)

    def on_both(self, gate: Any, more: Iterable[Sequence[str]] = ()) -> str:
        """A gate's scores on the source's validation and the target's test images."""
        lines = []
        for name, data in (("source validation", self.ground.validation), ("target test", self.ground.test)):
            lines += [(name, who, *score(one)) for who, one in gate(data).items()]
        return table(("set", "labels", "pixel accuracy", "mIoU"), [*lines, *more])


PARTS = {
    "Warm-up": Gates.warm_up,
    "Two classifiers (IR2F)": Gates.two_classifiers,
    "Gain of guided sampling by class (UncerDA)": Gates.guided_sampling,
    "Precision at equal coverage (UncerDA)": Gates.equal_coverage,
    "Attended prediction (SAM)": Gates.attended,
    "Refined labels (PRN)": Gates.refined,
    "Clusters and teacher on the same pixels (CPSL)": Gates.clusters,
}


def page(task: str, found: Gates) -> Iterator[str]:
    """The page's parts, each when it is known."""
    network = found.recipe.model.name
    yield f"# Gates: {task}\n\n{network}, source-only, scale {found.scale}; {machine()}. In per cent.\n"
    for title, part in PARTS.items():
        yield f"## {title}\n\n{part(found)}\n"


def percent(share: float) -> str:
    return "—" if share != share else f"{100 * share:.1f}"


def score(counts: Any) -> tuple[str, str]:
    return percent(counts.pixel_accuracy), percent(counts.miou)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


def warm_up(task: Task, folder: Path, scale: str, seed: int, overrides: Sequence[str]) -> Path:
    """A finished source-only run; continued or taken as it is where it exists."""
    return segrefinery.adapt(
        "source_only", task.source, task.target, folder, evaluation=task.test, scale=scale, seed=seed,
        overrides=overrides, resume=True, reuse=CELLS / "stages",
    )  # fmt: skip


def command() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--scale", default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=100, help="at most so many of each set that is measured on")
    parser.add_argument("--steps", type=int, help="of what a method trains; by default as its recipe says")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="a.b=c, of the source-only run")
    options = parser.parse_args()
    task, folder = TASKS[options.task], CELLS / "gates" / options.task / f"{options.scale}-seed{options.seed}"
    run = warm_up(task, folder, options.scale, options.seed, options.overrides)
    parts = []
    for part in page(options.task, Gates(task, run, options.scale, options.images, options.steps, ())):
        print(part, flush=True)
        parts.append(part)
    path = RESULTS / "gates" / f"{options.task}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts), encoding="utf-8")


def main() -> None:
    """Bad input is one line and exit code 2, as on the command line of segrefinery."""
    try:
        command()
    except SegRefineryError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
