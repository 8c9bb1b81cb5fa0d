"""Self-training, top to bottom: the teacher looks, the refiners mend what it saw, the student learns from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from segrefinery.data.augment import strong_view
from segrefinery.data.batch import LabeledBatch, MixedBatch, PseudoLabeledBatch, UnlabeledBatch
from segrefinery.data.label_files import write_label_set
from segrefinery.data.mixing import classmix, cutmix, draw_mix_classes, mix_labels
from segrefinery.data.translation import translate_at_random
from segrefinery.labels import IGNORE
from segrefinery.losses import symmetric_cross_entropy, variance_regularized_loss
from segrefinery.models.batch_norm import batch_norms, measure_statistics, unmoved_statistics
from segrefinery.models.segmenter import Prediction
from segrefinery.models.teacher import Teacher, TeacherView
from segrefinery.refine import PseudoLabels, Step, TargetStep
from segrefinery.stages.base import Passes, StageContext, StepBatch
from segrefinery.stages.common import RefinedStage, from_hard_labels, head_losses, labels_losses, weighted
from segrefinery.stages.kinds import SelfTrainingSettings
from segrefinery.stages.norm_statistics import choose_statistics
from segrefinery.stages.watch import LabelWatch


class SelfTraining(RefinedStage):
    """Student, teacher and refiners; see ``step`` for the method."""

    def __init__(self, settings: SelfTrainingSettings, context: StageContext) -> None:
        super().__init__(settings, context)
        self.settings, self.normalization = settings, context.normalization
        self.statistics = settings.statistics or "both"  # a recipe has filled in its network's
        self.prepares_model = self.statistics != "both" and bool(batch_norms(self.model))
        self.teacher = Teacher(context.previous if settings.labels == "offline" else context.model, settings.teacher)
        self.watch = LabelWatch(context.space.num_classes)
        if settings.batch_norm == "train":
            for module in batch_norms(self.model):
                module.requires_grad_(True)
        self._label_numbers: dict[str, list[Tensor]] = {}

    # -- the method --------------------------------------------------------------------------------------------------

    def step(self, batch: StepBatch) -> Iterator[dict[str, Tensor]]:
        source, target, random = batch.source, batch.target, batch.generators
        assert target is not None, "self-training needs a target batch"
        if source is not None:
            source = self.in_style(source, target.image, random)

        if on_labels := labels_losses(self.model, batch, self.settings, self.settings.weights):
            yield on_labels

        view, labels = self.label(target)
        mixed = self.mix(source, target, labels, random)
        mixed = replace(mixed, image=self.strong(mixed.image, random))

        with unmoved_statistics(self.model, self.statistics == "target"):
            seen_source, losses = self.learn_source(source, self.settings.source_weight, self.settings.weights)
        if losses and not self.chain_with_losses:
            yield losses  # frees the source's graph before the target's is built
            losses = {}

        on_mixed = self.model(mixed.image)
        losses |= weighted(self.settings.target_weight, self.target_losses(on_mixed, mixed))
        self.watch.see(labels.probs, None if source is None else source.label, on_mixed, mixed.target_label)

        step = Step(
            batch.number,
            self.model,
            seen_source,
            TargetStep(self.teacher, view, labels, mixed, on_mixed),
            strong=partial(self.strong, random=random),
            normalization=self.normalization,
            generators=random,
        )
        for refiner in self.chain_with_losses:
            losses |= refiner.losses(step)
        self.micro_steps.append(step)
        yield losses

    def in_style(self, source: LabeledBatch, target: Tensor, random: list[torch.Generator]) -> LabeledBatch:
        """The source as the stage shows it: in the style of the target images (B x 3 x H x W), if it is to be so."""
        settings = self.settings.translation
        if settings is None:
            return source
        return replace(source, image=translate_at_random(source.image, target, random, settings, *self.normalization))

    @torch.no_grad()
    def label(self, target: UnlabeledBatch | PseudoLabeledBatch) -> tuple[TeacherView | None, PseudoLabels]:
        """The labels of a target batch: what the teacher sees, mended by each refiner in turn. In an offline
        generation they were made before, and there is no view."""
        if isinstance(target, PseudoLabeledBatch):
            return None, from_hard_labels(target.label, target.weight, self.space.num_classes)
        device = target.image.device.type
        # Weights that autocast cast here, without a gradient, must not be taken from its cache where they are trained.
        with torch.autocast(device, enabled=torch.is_autocast_enabled(device), cache_enabled=False):
            view = self.teacher.view(target.image, target.index)
            labels = PseudoLabels.from_view(view)
            for refiner in self.chain:
                labels = refiner(view, labels)
        self._note_labels(labels)
        return view, labels

    def mix(
        self,
        source: LabeledBatch | None,
        target: UnlabeledBatch | PseudoLabeledBatch,
        labels: PseudoLabels,
        random: list[torch.Generator],
    ) -> MixedBatch:
        """Paste parts of the source over the target (ClassMix, CutMix). What is pasted carries its true label and
        weighs 1. Without a source, parts of each target image are pasted over the next, with their labels and weights;
        they are the target's own."""
        label, weight = labels.at((target.image.shape[-2], target.image.shape[-1]))
        none_pasted = torch.zeros_like(label, dtype=torch.bool)
        if self.settings.mixing == "none":
            return MixedBatch(target.image, label, weight, pasted=none_pasted)
        if source is None:
            theirs, their_label, their_weight = (part.roll(1, dims=0) for part in (target.image, label, weight))
        else:
            theirs, their_label, their_weight = source.image, source.label, torch.ones_like(weight)
        if self.settings.mixing == "classmix":
            classes = draw_mix_classes(their_label, random, preset=self.settings.mix_classes)
            image, label, pasted = classmix(theirs, their_label, target.image, label, classes)
        else:
            image, label, pasted = cutmix(theirs, their_label, target.image, label, random)
        weight = mix_labels(pasted, their_weight, weight)
        return MixedBatch(image, label, weight, none_pasted if source is None else pasted)

    def target_losses(self, prediction: Prediction, mixed: MixedBatch) -> dict[str, Tensor]:
        """How the student learns from refined labels."""
        weights, label, weight = self.settings.weights, mixed.label, mixed.weight
        if self.settings.target_loss == "variance_regularized":
            if prediction.aux_logits is None:
                raise ValueError("target_loss: variance_regularized needs a network with a second learner")
            label = label.masked_fill(weight <= 0, IGNORE)
            main, aux, aligned = prediction.logits, prediction.aux_logits, prediction.aligned
            return {
                "target": weights.main * variance_regularized_loss(main, aux, label, weight, aligned=aligned),
                "target_aux": weights.aux * variance_regularized_loss(aux, main, label, weight, aligned=aligned),
            }
        losses = head_losses("target", prediction, label, weight, weights)
        if self.settings.target_loss == "symmetric":
            loss = symmetric_cross_entropy(prediction.logits, label, weight, aligned=prediction.aligned)
            losses["target"] = weights.main * loss
        return losses

    @torch.no_grad()
    def after_step(self, batch: StepBatch) -> None:
        if self.settings.labels == "online":
            self.teacher.update(self.model, batch.number)
        super().after_step(batch)

    # -- what surrounds it -------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> SelfTraining:
        """Chosen statistics stand still: the student's norms stay as in evaluation."""
        super().train(mode)
        if self.statistics == "chosen":
            for norm in batch_norms(self.model):
                norm.eval()
        return self

    def prepare(self, passes: Passes) -> None:
        """Measure batch norm on the target, or choose its statistics, if so set; let every refiner look at the data; in
        an offline generation, also write the labels of the target set."""
        if self.statistics != "both":
            self.settle_statistics(passes)
        for refiner in self.chain:
            refiner.fit(self.teacher, passes.source, passes.target)
        if self.settings.labels == "offline":
            files = (self.label_files(batch) for batch in passes.target)
            write_label_set(passes.folder / "labels", files, passes.target_names, self.space)

    def settle_statistics(self, passes: Passes) -> None:
        """Give batch norm the statistics that the stage asks for, in the student and in the teacher, which is its copy
        so far unless it labels offline."""
        online = self.settings.labels == "online"
        for network in [self.model] if online else [self.model, self.teacher.network]:
            images = (batch.image for batch in passes.target)
            if self.statistics == "target":
                measure_statistics(network, images)
            else:
                assert passes.look is not None, "statistics: chosen asks for a look at the target"
                choose_statistics(network, images, passes.look)
        if online:
            self.teacher.network.load_state_dict(self.model.state_dict())

    def label_files(self, target: UnlabeledBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Labels and weights B x H x W at the images' size, and the images' places."""
        return *self.label(target)[1].at((target.image.shape[-2], target.image.shape[-1])), target.index

    def target_labels(self, folder: Path) -> Path | None:
        return folder / "labels" if self.settings.labels == "offline" else None

    @property
    def label_watch(self) -> LabelWatch:
        return self.watch

    def numbers(self) -> dict[str, float]:
        numbers = {name: float(torch.stack(values).mean()) for name, values in self._label_numbers.items()}
        self._label_numbers.clear()
        return numbers

    def strong(self, image: Tensor, random: list[torch.Generator]) -> Tensor:
        """The strong view of B x 3 x H x W normalised images; the same geometry."""
        if self.settings.strong is None:
            return image
        return strong_view(image, random, self.settings.strong, *self.normalization)

    def _note_labels(self, labels: PseudoLabels) -> None:
        confidence = labels.probs.amax(dim=1).mean()
        for name, value in {"label_weight": labels.weight.mean(), "label_confidence": confidence}.items():
            self._label_numbers.setdefault(name, []).append(value)
