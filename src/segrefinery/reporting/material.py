"""What a report is made of: a run folder's files, its data sets and its networks, each only if it is there."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import read_json
from segrefinery.core.randomness import generator
from segrefinery.core.yaml import read_yaml
from segrefinery.data.align import Alignment, align, align_to_model
from segrefinery.data.datasets import UnlabeledView, open_dataset
from segrefinery.data.label_files import PseudoLabeled
from segrefinery.data.transforms import resize_for_evaluation
from segrefinery.data.translated import TranslatedFolder
from segrefinery.engine.checkpoints import load_safely
from segrefinery.engine.folders import SOURCE_ONLY, run_recipe
from segrefinery.engine.model import Model, load
from segrefinery.engine.tracker import records
from segrefinery.evaluation.inference import device_of
from segrefinery.evaluation.results import read_results
from segrefinery.labels import LabelSpace
from segrefinery.models.teacher import Teacher, TeacherSettings, TeacherView
from segrefinery.models.weights import CONFIG
from segrefinery.refine import PseudoLabels, Refiner, parse_chain


class ShownModel(Model):
    """A model of the run, as the report looks at it."""

    def view(self, image: Tensor) -> TeacherView:
        """What the segmenter, as a teacher, sees of a uint8 3 x H x W image."""
        device = device_of(self.segmenter)
        read = resize_for_evaluation(image, self.data).unsqueeze(0).to(device)
        return Teacher(self.segmenter, TeacherSettings()).view(read, torch.zeros(1, dtype=torch.int64, device=device))


@dataclass
class Shot:
    """One image of the gallery with all that is known of it.

    Attributes:
        image: uint8 3 x H x W. label: H x W reference, or None.
        before, after: C x H x W probabilities of the source-only and of the last network, or None.
        pseudo: the refined labels that the last network would be taught with, or None.
    """

    name: str
    image: Tensor
    label: Tensor | None
    before: Tensor | None
    after: Tensor | None
    pseudo: PseudoLabels | None = None


@dataclass
class Material:
    """A run folder, read on demand. ``notes`` collects what could not be shown, and why."""

    folder: Path
    recipe: dict[str, Any]
    environment: dict[str, Any]
    results: dict[str, Any]
    records: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> Material:
        """Raises SegRefineryError where the folder holds no run."""
        recipe = run_recipe(folder)
        environment, metrics = folder / "environment.json", folder / "metrics.jsonl"
        return cls(
            folder,
            read_yaml(recipe),
            read_json(environment, "remove it") if environment.exists() else {},
            read_results(folder),
            [record for _, record in records(metrics)] if metrics.exists() else [],
        )

    @cached_property
    def before(self) -> ShownModel | None:
        """The network that has seen nothing but the source."""
        return self._trained(SOURCE_ONLY)

    @cached_property
    def after(self) -> ShownModel | None:
        """The network the run ends with so far."""
        return self._trained("model")

    @property
    def last(self) -> ShownModel | None:
        return self.after or self.before

    @property
    def space(self) -> LabelSpace | None:
        return self.last.space if self.last else None

    @cached_property
    def sets(self) -> Alignment | None:
        """The run's data sets; None, with a note, where they are not to be read any more."""
        recipe = self.recipe
        try:
            target = open_dataset(recipe["target"])
            evaluation = open_dataset(recipe["evaluation"]) if recipe.get("evaluation") else None
            labels = open_dataset(recipe["labels"]) if recipe.get("labels") else None
            if recipe.get("source") is None and self.space is not None:
                return align_to_model(self.space, target, evaluation, recipe.get("merge"), labels)
            source = open_dataset(recipe["source"])
            if recipe.get("translated"):
                source = TranslatedFolder(source, recipe["translated"])
            return align(source, target, evaluation, self.space, recipe.get("merge"), labels)
        except (SegRefineryError, OSError, KeyError, TypeError) as error:
            self.notes.append(f"No pictures: the run's images cannot be read any more ({error}).")
            return None

    @cached_property
    def labels(self) -> dict[str, list[str]]:
        """The labelled target images that taught, and those that were held out, by name; empty without any."""
        path = self.folder / "labels.json"
        return read_json(path) if path.exists() else {}

    @cached_property
    def evaluation_shots(self) -> list[Shot]:
        """A fixed choice of four images of the evaluation set."""
        if self.sets is None or self.sets.evaluation is None:
            return []
        return self._shots(self.sets.evaluation, 4, labelled=True)

    @cached_property
    def target_shots(self) -> list[Shot]:
        """A fixed choice of the target images: four, or two where there is an evaluation set."""
        return [] if self.sets is None else self._shots(self.sets.target, 4 if self.sets.evaluation is None else 2)

    @property
    def shots(self) -> list[Shot]:
        return self.evaluation_shots + self.target_shots

    @property
    def finished(self) -> list[str]:
        """The stages that left a model, in order, generations and rounds written out."""
        names = []
        for name, settings in self.recipe["stages"].items():
            rounds = [
                path.parent.name for path in self.folder.glob("stages/*/result.pt") if _belongs(path.parent.name, name)
            ]
            if settings.get("hands_on", "model") == "model":
                names += sorted(rounds, key=lambda stage: (len(stage), stage))
        return names

    @cached_property
    def final(self) -> dict[str, Any]:
        """What the last finished stage left: its name, its settings, and the states it handed on."""
        if not self.finished:
            return {"name": None, "settings": {}, "handed_on": {}}
        last = self.finished[-1]
        settings = next(value for name, value in self.recipe["stages"].items() if _belongs(last, name))
        handed_on = load_safely(self.folder / "stages" / last / "result.pt")["handed_on"]
        return {"name": last, "settings": settings, "handed_on": handed_on}

    @cached_property
    def refiners(self) -> dict[str, Refiner]:
        """The chain of the last stage with what it has learned, in eval mode."""
        built: dict[str, Refiner] = {}
        if self.last is None:
            return built
        try:
            for name, settings in parse_chain(self.final["settings"].get("refine") or {}).items():
                refiner = settings.build(self.last.segmenter, self.last.space)
                given = self.final["handed_on"].get(name, {})
                refiner.load_state_dict({key: given.get(key, value) for key, value in refiner.state_dict().items()})
                built[name] = refiner.to(device_of(self.last.segmenter)).eval()
        except (RuntimeError, ValueError, SegRefineryError) as error:
            self.notes.append(f"The refiners of stage {self.final['name']} could not be rebuilt ({error}).")
            return {}
        return built

    @torch.no_grad()
    def refined(self, image: Tensor) -> PseudoLabels | None:
        """The labels of a uint8 image as the last stage makes them, on the network's grid; weighed by the network's
        confidence where there is no chain, or where it cannot be run outside of training."""
        if self.last is None:
            return None
        view = self.last.view(image)
        labels = PseudoLabels.from_view(view)
        plain = PseudoLabels(view.probs.cpu(), view.probs.amax(dim=1).cpu(), view.aligned)
        if not self.refiners:
            return plain
        try:
            for refiner in self.refiners.values():
                labels = refiner(view, labels)
        except Exception as error:  # a picture must not cost the report, and a refiner may need a training step
            note = f"Pseudo-labels are shown with the network's confidence: the refiners did not run here ({error})."
            if note not in self.notes:
                self.notes.append(note)
            return plain
        return PseudoLabels(labels.probs.cpu(), labels.weight.cpu(), labels.aligned)

    def forget_networks(self) -> None:
        """Read the networks anew when they are next asked for."""
        for name in ("before", "after", "refiners"):
            self.__dict__.pop(name, None)

    def _trained(self, part: str) -> ShownModel | None:
        folder = self.folder / part
        if not (folder / CONFIG).exists():
            return None
        try:
            return ShownModel(**vars(load(folder)))
        except SegRefineryError as error:
            self.notes.append(f"No pictures: {error}.")
            return None

    def _shots(self, dataset: Any, count: int, labelled: bool = False) -> list[Shot]:
        order = torch.randperm(len(dataset), generator=generator(int(self.recipe["seed"]), "report"))[:count]
        folder = self.folder / "stages" / str(self.final["name"]) / "labels"
        written = PseudoLabeled(dataset, folder) if folder.exists() and isinstance(dataset, UnlabeledView) else None
        shots = []
        for index in sorted(order.tolist()):
            image = dataset.image(index)
            size = (image.shape[-2], image.shape[-1])
            before, after = (part and part.predict(image, size) for part in (self.before, self.after))
            pseudo = _from_files(written, index, self) if written else self.refined(image)
            label = dataset.label(index) if labelled else None  # pyright: ignore[reportAttributeAccessIssue]
            shots.append(Shot(dataset.name(index), image, label, before, after, pseudo))
        return shots


def _from_files(written: PseudoLabeled, index: int, material: Material) -> PseudoLabels | None:
    """The labels of an offline generation, as the student read them."""
    try:
        label, weight = written.pseudo(index)
    except SegRefineryError as error:
        material.notes.append(str(error))
        return None
    assert material.space is not None
    classes = material.space.num_classes
    probs = nn.functional.one_hot(label.clamp(max=classes - 1), classes).movedim(-1, 0).float()
    return PseudoLabels(probs[None], (weight.float() / 255)[None].masked_fill(label[None] >= classes, 0.0))


def _belongs(stage: str, name: str) -> bool:
    """Whether a finished stage is the recipe's stage of that name, or one of its generations or rounds."""
    rest = stage.removeprefix(name)
    return stage.startswith(name) and (not rest or (rest[0] == "-" and rest[1:].isdigit()))
