"""The kinds of stages and what a recipe may say of each. Nothing here needs torch: a recipe is read without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from segrefinery.core.settings import BUDGET, CODE
from segrefinery.data.settings import StrongViewSettings, TranslationSettings
from segrefinery.models.settings import Statistics, TeacherSettings
from segrefinery.refine import REFINERS, RefinerChain
from segrefinery.refine.entropy_mixture.settings import TargetGuidedSettings
from segrefinery.refine.settings import RefinerSettings
from segrefinery.stages.settings import (
    ClassifierWeights,
    LabelledSettings,
    LossWeights,
    OptimizerSettings,
    StageSettings,
)

if TYPE_CHECKING:
    from segrefinery.stages.adversarial import Adversarial
    from segrefinery.stages.base import StageContext
    from segrefinery.stages.distillation import Distillation
    from segrefinery.stages.entropy_minimization import EntropyMinimization
    from segrefinery.stages.self_training import SelfTraining
    from segrefinery.stages.supervised import Supervised


class SupervisedSettings(StageSettings):
    """Train on labelled images."""

    kind: Literal["supervised"] = "supervised"
    """Names the kind of the stage."""
    learn_from: Literal["source", "target_labels"] = "source"
    """Learns from the source, or from ``target_labels``, which makes the run an oracle: an upper bound, never an
    adaptation result."""
    hands_on: Literal["model", "refiners"] = "model"
    """Hands on the network, or only what its refiners learned (``refiners``, SAM's attention); the network is then
    thrown away."""
    weights: LossWeights = LossWeights()
    """Weighs the network's classifiers in the cross-entropy."""
    refine: RefinerChain = Field(default_factory=dict)
    """Trains also these refiners' own losses on the source (SAM's attention, IR2F's function)."""

    labelled: LabelledSettings = LabelledSettings(weight=0.0)
    """Says how the stage learns from the labelled target images of ``--labels``: by default not at all, so that there
    is a source-only model to compare with. ``weight: 1`` trains on the source and on them."""

    @property
    def takes_target(self) -> bool:
        return False

    @property
    def reads_target_labels(self) -> bool:
        return self.learn_from == "target_labels"

    @property
    def needs_source(self) -> str | None:
        return None if self.reads_target_labels else "it trains on labelled source images"

    def beside_a_model(self) -> StageSettings | None:
        if self.reads_target_labels or not self.hands_on_model:
            return self
        return self.model_copy(update={"hands_on": "refiners"}) if self.refine else None

    @property
    def hands_on_model(self) -> bool:
        return self.hands_on == "model"

    @property
    def chain(self) -> RefinerChain:
        return self.refine

    @property
    def passes(self) -> float:
        return 1.0

    def build(self, context: StageContext) -> Supervised:
        from segrefinery.stages.supervised import Supervised

        return Supervised(self, context)


class AdversarialSettings(StageSettings):
    """Align the target's predictions with the source's; the defaults are AdaptSegNet's, which UncerDA keeps."""

    kind: Literal["adversarial"] = "adversarial"
    """Names the kind of the stage."""
    optimizer: Annotated[OptimizerSettings, BUDGET, CODE] = OptimizerSettings(
        name="sgd", lr=2.5e-4, weight_decay=5e-4, power=0.9, horizon=250_000
    )
    """Chooses the network's optimizer and its rates."""
    discriminator_optimizer: Annotated[OptimizerSettings, BUDGET, CODE] = OptimizerSettings(
        name="adam", lr=1e-4, weight_decay=0.0, betas=(0.9, 0.99), power=0.9, horizon=250_000
    )
    """Chooses the discriminators' optimizer and its rates."""
    discriminator_width: Annotated[int, BUDGET, CODE] = Field(default=64, ge=1)
    """Sets the channels of the first of a discriminator's five layers."""
    disc_input: Annotated[Literal["softmax", "entropy"], CODE] = "softmax"
    """Aligns class probabilities (AdaptSegNet, UncerDA) or their self-information (ADVENT)."""
    objective: Annotated[Literal["vanilla", "least_squares"], CODE] = "vanilla"
    """Tells domains apart by binary cross-entropy, or by squared distance (LS-GAN)."""
    upsample: Annotated[bool, BUDGET, CODE] = True
    """Discriminates at the images' size, as the papers do, or on the network's own grid, which is far cheaper."""
    weights: Annotated[LossWeights, CODE] = LossWeights()
    """Weighs the classifiers in the supervised loss on the source."""
    adversarial: Annotated[ClassifierWeights, CODE] = ClassifierWeights(main=0.001, aux=0.0002)
    """Weighs how far the network fools the discriminators; 0 for no discriminator."""
    entropy: ClassifierWeights = ClassifierWeights(main=0.0, aux=0.0)
    """Weighs entropy minimisation on the target (MinEnt: 0.001 and 0.0002)."""
    entropy_power: float | None = Field(default=None, gt=0)
    """Raises the entropy to FDA's robust penalty (eta: 2.0, with ``entropy.main`` 0.005); null for the entropy
    itself."""
    translation: TranslationSettings | None = None
    """Adds source images in the style of the target to the target stream; null for none."""
    translated_share: float = Field(default=0.5, ge=0, le=1)
    """Fills this share of the target stream with them."""
    translated_ce: bool = True
    """Lets their labels also teach."""
    rounds: Annotated[int, BUDGET] = Field(default=1, ge=1)
    """Repeats the stage so often, each time from the weights of the round before and with new discriminators. Guided
    rounds may settle earlier."""
    target_guided: TargetGuidedSettings | None = None
    """Draws source images by what the target finds uncertain (UncerDA); null for sampling as ``sampling`` says."""

    @model_validator(mode="after")
    def _one_way_to_sample(self) -> Self:
        if self.target_guided is not None and self.sampling != "uniform":
            raise ValueError("target_guided draws the source images: it needs sampling: uniform")
        return self

    @property
    def needs_source(self) -> str | None:
        return "it aligns the target with source images"

    @property
    def passes(self) -> float:
        return 2.3  # source, target, and discriminators

    @property
    def repeats(self) -> int:
        return self.rounds

    def repeated(self, number: int) -> Self:
        return self if number == 1 else self.model_copy(update={"start": "previous"})

    @property
    def translated_folder(self) -> str | None:
        return self.translation.folder if self.translation is not None else None

    def build(self, context: StageContext) -> Adversarial:
        from segrefinery.stages.adversarial import Adversarial

        return Adversarial(self, context)


class SelfTrainingSettings(StageSettings):
    """Learn the target from a teacher's refined labels."""

    kind: Literal["self_training"] = "self_training"
    """Names the kind of the stage."""
    refine: RefinerChain = Field(default_factory=dict)
    """Mends the teacher's labels by these refiners, in order."""
    labels: Literal["online", "offline"] = "online"
    """Makes labels as it goes, batch by batch, with a teacher that follows the student (``online``), or has the last
    stage's network label the whole target set once a generation, as PNG files that the student learns from
    (``offline``)."""
    generations: Annotated[int, BUDGET] = Field(default=1, ge=1)
    """Repeats the stage so often, each time from the labels of the network before."""
    teacher: TeacherSettings = TeacherSettings()
    """Says how the teacher follows the student."""
    mixing: Annotated[Literal["classmix", "cutmix", "none"], CODE] = "classmix"
    """Pastes parts of the source's images with their labels over the target images; without a source, of the batch's
    other target images with theirs."""
    mix_classes: Literal["paper", "official"] = "paper"
    """Pastes half of the classes of each image, or of the whole batch's with ignored pixels, as DACS's code does."""
    strong: StrongViewSettings | None = StrongViewSettings()
    """Changes the colours of what the student sees of the target; null for none."""
    translation: TranslationSettings | None = None
    """Shows the source images of this stage, those that are mixed in too, in the style of a random target image of the
    batch (``fda``, ``color``); null leaves them as they are."""
    statistics: Statistics | None = None
    """Chooses batch norm's running statistics, by which the teacher labels. They follow both domains (``both``); or are
    measured on the target before the stage and then follow what the student sees of it, not the source (``target``);
    or stay the target's, or the mean of these and the model's own, whichever the label-free score ranks higher, and
    the student normalises by them too (``chosen``). By default as the network's row in the table of networks says."""
    batch_norm: Literal["network", "train"] = "network"
    """Leaves scales and shifts as the network has them, or learns also those that it keeps fixed (``train``, UncerDA's
    self-training)."""
    weights: LossWeights = LossWeights()
    """Weighs the network's classifiers in the cross-entropies."""
    source_weight: Annotated[float, CODE] = Field(default=1.0, ge=0)
    """Weighs the loss on the source; 0 = the student does not look at it."""
    target_weight: Annotated[float, CODE] = Field(default=1.0, ge=0)
    """Weighs the loss on the mixed images."""
    target_loss: Literal["cross_entropy", "symmetric", "variance_regularized"] = "cross_entropy"
    """Learns labels by cross-entropy, by 0.1 CE + RCE (``symmetric``: ProDA, CPSL), or by exp(-D) CE + D
    (``variance_regularized``: MRNet, UncerDA)."""

    @model_validator(mode="after")
    def _a_folder_is_for_the_whole_run(self) -> Self:
        if self.translation is not None and self.translation.kind == "folder":
            raise ValueError(
                "translation: a self_training stage takes kind: fda or kind: color; give a folder of translated images "
                "to the whole run instead, outside of the stages, as translated: PATH"
            )
        return self

    def on_network(self, statistics: Statistics) -> Self:
        return self if self.statistics else self.model_copy(update={"statistics": statistics})

    @property
    def needs_source(self) -> str | None:
        if self.translation is not None:
            return "translation shows source images in the style of the target"
        return super().needs_source

    @property
    def compares_learners(self) -> str | None:
        return "target_loss" if self.target_loss == "variance_regularized" else super().compares_learners

    @model_validator(mode="after")
    def _averaged_as_its_loss_is(self) -> Self:
        if self.weights.mean_over != "all" and self.target_loss != "cross_entropy":
            raise ValueError(
                f"weights.mean_over: {self.weights.mean_over} goes with target_loss: cross_entropy; "
                f"{self.target_loss} is a mean over all pixels"
            )
        return self

    @property
    def mixes(self) -> bool:
        return self.mixing != "none"

    @property
    def chain(self) -> RefinerChain:
        return self.refine

    @property
    def passes(self) -> float:
        teacher = 1 / 3 if self.labels == "online" else 0.0
        return (1.0 if self.source_weight else 0.0) + 1.0 + teacher

    @property
    def repeats(self) -> int:
        return self.generations

    def build(self, context: StageContext) -> SelfTraining:
        from segrefinery.stages.self_training import SelfTraining

        return SelfTraining(self, context)


class DistillationSettings(StageSettings):
    """Teach a student what the last stage's network knows; by default the student is newly built."""

    kind: Literal["distillation"] = "distillation"
    """Names the kind of the stage."""
    start: Annotated[Literal["previous", "fresh"], CODE] = "fresh"
    """Builds the student anew (with its pre-trained encoder, for instance a self-supervised one), or starts it as the
    teacher itself."""
    rounds: Annotated[int, BUDGET] = Field(default=1, ge=1)
    """Repeats the stage so often; the student of a round teaches the next."""
    confidence: Annotated[float, CODE] = Field(default=0.95, ge=0, le=1)
    """Gives a target pixel a hard label only if the teacher's confidence is above this."""
    kl_weight: Annotated[float, CODE] = Field(default=1.0, ge=0)
    """Weighs KL(teacher || student)."""
    divisor: Literal["pixels", "elements"] = "pixels"
    """Takes the KL as a mean over pixels, or over pixels and classes (1/C of that), for which ProDA's and CPSL's
    authors chose its weight."""
    source_weight: Annotated[float, CODE] = Field(default=1.0, ge=0)
    """Weighs the cross-entropy on the source."""
    target_weight: Annotated[float, CODE] = Field(default=1.0, ge=0)
    """Weighs the cross-entropy on the teacher's labels."""
    weights: LossWeights = LossWeights()
    """Weighs the network's classifiers in both."""
    strong: StrongViewSettings | None = StrongViewSettings()
    """Shows student and teacher the target in a photometric strong view; null for none."""

    refine: RefinerChain = Field(default_factory=dict)
    """Adds the losses of refiners that leave labels alone, in order (SAM in ProDA's third stage)."""

    @field_validator("refine")
    @classmethod
    def _labels_stay(cls, chain: dict[str, RefinerSettings]) -> dict[str, RefinerSettings]:
        if changing := [name for name, settings in chain.items() if not settings.only_adds_losses]:
            fitting = [name for name, kind in REFINERS.items() if kind().only_adds_losses]
            raise ValueError(
                f"{', '.join(changing)}: distillation learns its teacher's labels as they are, so it takes only "
                f"refiners that add losses: {', '.join(fitting)}"
            )
        return chain

    @property
    def chain(self) -> Mapping[str, RefinerSettings]:
        return self.refine

    @property
    def passes(self) -> float:
        return 1.0 + 1 / 3 + (1.0 if self.source_weight else 0.0)

    @property
    def repeats(self) -> int:
        return self.rounds

    def build(self, context: StageContext) -> Distillation:
        from segrefinery.stages.distillation import Distillation

        return Distillation(self, context)


class EntropyMinimizationSettings(StageSettings):
    """Minimise the entropy of what the network says of the target (TENT)."""

    kind: Literal["entropy_minimization"] = "entropy_minimization"
    """Names the kind of the stage."""

    @property
    def passes(self) -> float:
        return 1.0

    def build(self, context: StageContext) -> EntropyMinimization:
        from segrefinery.stages.entropy_minimization import EntropyMinimization

        return EntropyMinimization(self, context)
