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
printed as it is found, and last what room each of them leaves; all are kept in ``benchmarks/results/gates/TASK.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

import segrefinery

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib import gates
from lib.command import one_line_errors
from lib.machine import machine
from lib.results import CELLS, RESULTS
from lib.spread import Spread
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.datasets import Remapped, UnlabeledView, open_dataset
from segrefinery.data.loader import WholeImages, training_batches
from segrefinery.data.sampling import UniformSampler
from segrefinery.data.scan import class_pixel_counts
from segrefinery.engine.model import Model
from segrefinery.evaluation.scoring import evaluate_network
from segrefinery.models.teacher import Teacher
from segrefinery.recipe import Recipe, load_recipe
from segrefinery.stages.settings import StageSettings


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


class Part(NamedTuple):
    """What a gate found, as a Markdown table, and the room that it leaves, in a phrase."""

    table: str
    room: str


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
        whole = partial(WholeImages, settings=self.model.data, workers=0)
        self.ground = gates.Ground(
            Teacher(self.model.segmenter),
            self.model.space,
            whole(self.validation),
            whole(target),
            whole(self.test),
            partial(self.pairs, self.source, target),
            partial(self.pairs, target_labels, target),
        )
        self.sides = {"source validation": self.ground.validation, "target test": self.ground.test}

    def labelled(self, name: str) -> Remapped:
        return Remapped(open_dataset(name), self.model.space, self.model.merge)  # pyright: ignore

    def pairs(self, labelled: Any, target: Any, steps: int) -> Iterator[tuple[Any, Any]]:
        """Augmented batches for so many steps."""
        data, target_data = (
            part.read_by(self.model.segmenter.normalization) for part in (self.recipe.data, self.recipe.target_data)
        )
        sides = ((labelled, data, 0), (target, target_data, 1))
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
            built.fit(self.ground.teacher, WholeImages(self.source, self.model.data, workers=0), self.ground.target)
        pairs = self.ground.taught_pairs if taught else self.ground.source_pairs
        gates.train(self.ground, built, pairs(steps), stage.optimizer, steps)
        return built

    # -- the parts -----------------------------------------------------------------------------------------------------

    def warm_up(self) -> Part:
        """1. The plain scores, at the reference's own resolution."""
        model, scores = self.model, {}
        for name, data in (("source validation", self.validation), ("target test", self.test)):
            found = evaluate_network(model.network, data, model.data, model.space.num_classes, model.window)
            scores[name] = {"source-only": found.total}
        validation, test = (each["source-only"].pixel_accuracy for each in scores.values())
        room = f"right on {percent(validation)} % of the source's pixels and on {percent(test)} % of the target's"
        return Part(side_by_side(scores), room)

    def two_classifiers(self) -> Part:
        """2. IR2F's head-room."""
        found = {name: gates.two_classifiers(self.ground, data) for name, data in self.sides.items()}
        scores = {f"{name}, {percent(differ)} % differ": counts for name, (counts, differ) in found.items()}
        last = list(scores.values())[-1]
        return Part(side_by_side(scores), f"{ahead(last, 'perfect choice', 'first')} by a perfect choice on the target")

    def guided_sampling(self) -> Part:
        """3. Gain by class: 1 is even sampling."""
        stage: Any = load_recipe("uncerda_aa", self.scale, self.overrides).stages["align"]
        guided = stage.target_guided
        midpoints = {f"midpoint {value}": value for value in (guided.midpoint, 0.05, 0.1, "median")}
        worst, gains = gates.guided_sampling(
            self.ground, class_pixel_counts(self.source), midpoints, guided.uncertain, guided.balance, guided.steepness
        )
        lines = (
            (
                name + (" (uncertain)" if place in worst else ""),
                *(f"{float(gain[place]):.2f}" for gain in gains.values()),
            )
            for place, name in enumerate(self.model.space.classes)
        )
        recipes = gains[f"guided, midpoint {guided.midpoint}"][worst]
        room = f"uncertain classes are seen {recipes.min():.2f} to {recipes.max():.2f} times as often as evenly"
        return Part(table(("class", *gains), lines), room)

    def equal_coverage(self) -> Part:
        """4. Mixtures against thresholds that keep as many."""
        found = gates.equal_coverage(self.ground, self.method("uncerda", "entropy_mixture")[1])
        lines = ((name, percent(coverage), percent(precision)) for name, (coverage, precision) in found.items())
        mixtures, one = (found[name][1] for name in ("mixtures of the images", "one threshold, as many"))
        room = f"{100 * (mixtures - one):+.1f} points of precision over one threshold that keeps as many"
        return Part(table(("labels kept", "coverage", "precision"), lines), room)

    def attended(self) -> Part:
        """5. SAM's attention, trained on the source."""
        refiner = self.trained("pixel_attention", "pixel_attention", {})
        scores = {name: gates.attended(self.ground, refiner, data) for name, data in self.sides.items()}
        room = ahead(scores["source validation"], "attended", "prediction")
        return Part(side_by_side(scores), f"{room} by attention on source validation")

    def refined(self) -> Part:
        """6. PRN's network, trained on the source, and as far as target labels could take it."""
        unspoiled = {"augment_source": False, "perturbation": "none"}
        refiner = self.trained("prn", "refinement_network", {"augment_source": False})
        scores = {name: gates.refined(self.ground, refiner, data) for name, data in self.sides.items()}
        taught = self.trained("prn", "refinement_network", unspoiled, taught=True)
        scores["target test, taught by target labels"] = gates.refined(self.ground, taught, self.ground.test)
        validation, _, last = (ahead(each, "refined", "teacher") for each in scores.values())
        return Part(
            side_by_side(scores), f"{validation} by refinement on source validation; {last} taught by target labels"
        )

    def clusters(self) -> Part:
        """7. CPSL's clusters after their training, and the teacher on the same pixels."""
        changes = {"soft_labels": "chain", "consistency_weight": 0.0}
        refiner = self.trained("cpsl", "self_labeling", changes, fit=True)
        every, differ = gates.clusters(self.ground, refiner)
        share = float(differ["teacher"].matrix.sum() / every["teacher"].matrix.sum())
        scores = {"all pixels": every, f"where teacher and clusters differ ({percent(share)} %)": differ}
        return Part(side_by_side(scores), f"{ahead(every, 'clusters', 'teacher')} by clusters on the target")


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
    rooms = []
    for title, gate in PARTS.items():
        part = gate(found)
        rooms.append((title, part.room))
        yield f"## {title}\n\n{part.table}\n"
    yield f"## Room\n\n{table(('gate', 'room'), rooms)}\n"


def side_by_side(scores: dict[str, gates.Scores]) -> str:
    """Markdown: on each set of pixels, what is compared."""
    lines = (
        (name, who, percent(one.pixel_accuracy), percent(one.miou))
        for name, compared in scores.items()
        for who, one in compared.items()
    )
    return table(("pixels", "labels", "pixel accuracy", "mIoU"), lines)


def ahead(scores: gates.Scores, ours: str, theirs: str) -> str:
    """How far one is ahead of the other."""
    points = 100 * (scores[ours].miou - scores[theirs].miou)
    pixels = 100 * (scores[ours].pixel_accuracy - scores[theirs].pixel_accuracy)
    return f"{points:+.1f} mIoU and {pixels:+.1f} % of the pixels"


def percent(share: float) -> str:
    return "—" if share != share else f"{100 * share:.1f}"


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


if __name__ == "__main__":
    one_line_errors(command)
