"""The verbs: adapt, evaluate, load, predict, pseudo_label."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import write_json, write_text
from segrefinery.data.align import align, evaluation_view
from segrefinery.data.check import overlaps, refuse_faults
from segrefinery.data.datasets import UnlabeledView, open_dataset
from segrefinery.data.label_files import write_label_set
from segrefinery.data.translation import TranslatedFolder
from segrefinery.engine.environment import deterministic, environment
from segrefinery.engine.model import Model, default_device, load
from segrefinery.engine.run import Run, RunData, StageEnd
from segrefinery.engine.tracker import Tracker
from segrefinery.evaluation.inference import Evaluation, evaluate_network
from segrefinery.evaluation.results import keep_evaluation, scores_of
from segrefinery.labels import IGNORE, LabelSpace
from segrefinery.models import normalization_of, save_model
from segrefinery.recipe import Recipe, dump_recipe, load_recipe
from segrefinery.verbs.witness import Witness
from segrefinery.verbs.zoom import warn_of_reading

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Called with a stage's name, the steps done, the steps in all and the losses; of a pass over images with what it is
(``adapt: target images``), the images done, the images in all and no losses."""


def adapt(
    recipe: str | Path | Recipe,
    source: str | Path,
    target: str | Path,
    output: str | Path,
    *,
    evaluation: str | Path | None = None,
    oracle: str | Path | None = None,
    scale: str | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    resume: bool = False,
    reuse: str | Path | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Adapt a model to unlabelled target images -> the run folder.

    Args:
        recipe: name of a shipped recipe, path of a YAML file, or a recipe.
        source: labelled images, ``NAME:PATH[@SPLIT]``. target: images to adapt to; labels they have are not read.
        output: the run folder, which must be new, empty, or the run to ``resume``.
        evaluation: labelled images of the target domain, looked at for scores only.
        oracle: labelled target images, for a recipe with an oracle stage only.
        scale: ``small`` for two processor cores. overrides: ``a.b=c`` assignments to the recipe.
        reuse: folder in which finished stages are shared between runs that agree on all that determines them, this
            code included; or the folder of another run, from which such stages are taken.
        progress: told of every step. say: told, in a sentence, what happens.

    Raises:
        SegRefineryError: bad input, named before anything is trained; or training that cannot go on.
    """
    folder = Path(output)
    if not isinstance(recipe, Recipe):
        named = {"source": source, "target": target, "evaluation": evaluation, "oracle": oracle}
        fields = {role: None if data is None else str(data) for role, data in named.items()}
        recipe = load_recipe(recipe, scale, overrides, seed=seed, **fields)
    check_folder(folder, recipe, resume, say)
    told = progress or (lambda name, done, steps, losses: None)
    sets = open_sets(recipe, say, told)
    open_folder(folder)
    fabric = make_fabric(recipe)
    main = fabric.global_rank == 0
    if main:
        write_text(folder / "recipe.yaml", dump_recipe(recipe))
        write_json(folder / "environment.json", environment(str(fabric.device), fabric.world_size))
    tracker = Tracker(folder, active=main, say=say)
    image_size = tuple(sets.target.image(0).shape[-2:])
    witness = Witness(folder, sets.target, recipe.target_data, sets.space.num_classes, recipe.window, tracker)

    def looked(end: StageEnd, step: int, label: str) -> Evaluation | None:
        if sets.evaluation is None or not main:
            return None
        found = evaluate_network(
            end.predictor, sets.evaluation, recipe.target_data, sets.space.num_classes, recipe.window,
            progress=lambda done, total: told(f"{end.name}: evaluation images", done, total, {}),
        )  # fmt: skip
        tracker.write(end.name, step, label, {"miou": found.total.miou, "pixel_accuracy": found.total.pixel_accuracy})
        return found

    def ended(end: StageEnd) -> None:
        if not main:
            return
        witness.ended(end)
        if (folder / "evaluation" / f"{end.name}.npz").exists():
            return
        save_result(folder / ("source_model" if end.source_only else "model"), end, recipe, sets.space, image_size)
        if recipe.training.choose == "score" and not end.source_only:
            save_result(folder / "candidates" / end.name, end, recipe, sets.space, image_size)
        found = looked(end, end.settings.steps, "evaluation")
        if found is not None:
            keep_evaluation(folder, end.name, found, sets.space, source_only=end.source_only)
            say(f"{end.name}: {100 * found.total.miou:.1f} mIoU on {recipe.evaluation}")

    def glanced(end: StageEnd, step: int) -> None:
        looked(end, step, "look")
        if main:
            witness.glance(end, step)

    run = Run(
        folder, dict(recipe.stages), recipe.model, recipe.data, recipe.target_data, recipe.training, recipe.seed,
        sets, fabric, tracker,
        reuse=Path(reuse) if reuse else None,
        on_look=glanced,
        on_end=ended,
        on_progress=told,
    )  # fmt: skip
    with deterministic(recipe.training.deterministic):
        run.execute()
    if main and (verdict := witness.conclude(recipe.training.choose, sets.source)) is not None:
        say(f"verdict: {verdict}")
    tracker.close()
    return folder


def evaluate(
    run: str | Path | Model,
    on: str | Path,
    *,
    classes: str | Sequence[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Scores of a model on labelled images: ``miou``, ``iou`` by class, ``pixel_accuracy``, ``mean_pixel_accuracy``,
    and ``missing``, the model's classes that are not scored: no label of the images can be one of them.

    Args:
        classes: the only classes whose pixels are scored, for instance ``synthia13``, or names. The model still
            chooses among all of its own, and ``miou`` is the mean over these.
    """
    model = run if isinstance(run, Model) else load(run)
    dataset = open_dataset(str(on))
    if not dataset.has_labels:
        raise SegRefineryError(f"{on}: has no masks to evaluate on; name a data set with masks, or use predict")
    warn_of_reading(model, dataset, dataset.image(0))
    view, missing = evaluation_view(dataset, model.space, model.merge, classes)
    found = evaluate_network(model.network, view, model.data, model.space.num_classes, model.window, progress)
    return scores_of(found.total, model.space, missing) | {"missing": list(missing)}


def predict(
    run: str | Path | Model,
    images: str | Path,
    *,
    factor: float = 1.0,
    skip: Callable[[SegRefineryError], None] | None = None,
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each image's name, its uint8 3 x H x W pixels and its class probabilities, C x H x W times ``factor``.

    Args:
        images: a folder, a glob, a file, or any data set's name.
        factor: size of the probabilities over that of the image; what decodes at any resolution (IR2F) does.
        skip: told of an image that cannot be read, which is then left out; without it the error is raised.
    """
    model = run if isinstance(run, Model) else load(run)
    dataset, said = open_dataset(str(images)), False
    for index in range(len(dataset)):
        try:
            image = dataset.image(index)
        except SegRefineryError as error:
            if skip is None:
                raise
            skip(error)
            continue
        if not said:
            warn_of_reading(model, dataset, image)
            said = True
        size = tuple(max(1, round(side * factor)) for side in image.shape[-2:])
        yield dataset.name(index), image, model.predict(image, size)  # pyright: ignore[reportArgumentType]


def count(images: str | Path) -> int:
    """How many images a reference names."""
    return len(open_dataset(str(images)))


def refuse_inside(output: str | Path, images: str | Path) -> None:
    """Refuse results among the images that they are made of: the next reading would take them for images."""
    if Path(images).is_dir() and Path(output).resolve().is_relative_to(Path(images).resolve()):
        raise SegRefineryError(f"{output}: lies in {images}, whose images are read; name a folder outside with -o")


def pseudo_label(
    run: str | Path | Model,
    target: str | Path,
    output: str | Path,
    threshold: float = 0.0,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Label images for other tools to train on -> how many were written.

    For each image ``STEM.png`` (class ids with their colours, 255 ignored) and ``STEM.weight.png`` (confidence as
    0..255), at the image's own size, and once ``classes.json``. Images are read and written one by one.

    Args:
        threshold: pixels whose confidence is below it are ignored and weigh 0.
    """
    model = run if isinstance(run, Model) else load(run)
    dataset, folder = UnlabeledView(open_dataset(str(target))), Path(output)
    refuse_inside(folder, target)
    warn_of_reading(model, dataset, dataset.image(0))

    def labelled() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for index in range(len(dataset)):
            confidence, label = model.predict(dataset.image(index)).max(dim=0)
            ignored = confidence < threshold
            yield (
                label.masked_fill(ignored, IGNORE)[None],
                confidence.masked_fill(ignored, 0.0)[None],
                torch.tensor([index]),
            )
            progress(index + 1, len(dataset))

    names = [dataset.name(index) for index in range(len(dataset))]
    write_label_set(folder, labelled(), names, model.space)
    classes = [{"id": id, "name": name, "color": list(color)} for id, (name, color) in enumerate(
        zip(model.space.classes, model.space.colors, strict=True))]  # fmt: skip
    write_json(folder / "classes.json", classes)
    return len(dataset)


# -- the parts -----------------------------------------------------------------------------------------------------


def check_folder(folder: Path, recipe: Recipe, resume: bool, say: Callable[[str], None]) -> None:
    """Refuse to overwrite a run, and to resume one with another recipe."""
    written = folder / "recipe.yaml"
    if folder.exists() and not folder.is_dir():
        raise SegRefineryError(f"{folder}: is a file; name a folder for the run with -o")
    if not written.exists():
        if folder.exists() and any(folder.iterdir()) and not resume:
            raise SegRefineryError(f"{folder}: is not empty and holds no run; name a new folder with -o")
        if resume:
            say(f"note: {folder} holds no run to continue; a new one starts there")
        return
    if not resume:
        raise SegRefineryError(
            f"{folder}: holds a run already; continue it with --resume, or name a new folder with -o"
        )
    before = load_recipe(written)
    old, new = before.model_dump(mode="json"), recipe.model_dump(mode="json")
    different = [key for key in new if old.get(key) != new[key] and key != "about"]
    if different:
        raise SegRefineryError(
            f"{written}: the run was started with other settings ({', '.join(different)}); resume with the same "
            f"recipe, data and --set, or start a new run with -o; --reuse {folder} then takes over the stages that "
            "have not changed"
        )


def open_folder(folder: Path) -> None:
    """Make the run's folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SegRefineryError(f"{folder}: cannot be made ({error.strerror}); name another folder with -o") from error


def open_sets(
    recipe: Recipe, say: Callable[[str], None], progress: Progress = lambda name, done, total, losses: None
) -> RunData:
    """The recipe's data sets in one label space, every file of theirs read once; says which classes are used."""
    for field in ("source", "target"):
        if getattr(recipe, field) is None:
            raise SegRefineryError(f"{field}: name a data set as NAME:PATH[@SPLIT]")
    source = open_dataset(str(recipe.source))
    target = open_dataset(str(recipe.target))
    evaluation = open_dataset(recipe.evaluation) if recipe.evaluation else None
    for problem in overlaps(source, target, evaluation):
        if problem.severity == "error":
            raise SegRefineryError(str(problem))
        say(f"warning: {problem}")
    needs_oracle = any(stage.reads_target_labels for stage in recipe.stages.values())
    if needs_oracle and recipe.oracle is None:
        raise SegRefineryError("oracle: this recipe trains on target labels; name them with --oracle NAME:PATH[@SPLIT]")
    if recipe.translated is not None:
        source = TranslatedFolder(source, recipe.translated)
    translated = {}
    for name, stage in recipe.stages.items():
        if (folder := stage.translated_folder) is not None:
            images = TranslatedFolder(source, folder, f"stages.{name}.translation.folder")
            translated[folder] = UnlabeledView(images)
    common = align(source, target, evaluation, space=recipe.classes, merge=recipe.merge)
    say(common.sentence)
    oracle = None
    if needs_oracle:
        oracle = align(open_dataset(str(recipe.oracle)), target, space=common.space, merge=recipe.merge).source
    if os.environ.get("RANK", "0") == "0":  # one process of several reads for all
        told = lambda role, done, total: progress(f"read {role}", done, total, {})  # noqa: E731
        refuse_faults(common.source, common.target, common.evaluation, told)
    return RunData(common.source, common.target, common.space, common.evaluation, oracle, translated)


def make_fabric(recipe: Recipe) -> Fabric:
    """One process, or one of those that torchrun started."""
    from lightning_fabric import Fabric  # only training needs it
    from lightning_fabric.strategies.ddp import DDPStrategy

    accelerator = default_device().type
    mixed = recipe.training.precision == "bf16-mixed"
    if accelerator == "cuda" and mixed and not torch.cuda.is_bf16_supported(including_emulation=False):
        log.warning(
            "training.precision: this GPU has no bfloat16 of its own, and torch emulates it; try --set "
            "training.precision=32-true"
        )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        fabric = Fabric(
            accelerator=accelerator,
            devices=local,
            num_nodes=world // local,
            strategy=DDPStrategy(timeout=timedelta(days=1)),  # others wait while rank 0 looks at data or evaluates
            precision=recipe.training.precision,
        )
    else:
        fabric = Fabric(accelerator=accelerator, devices=1, precision=recipe.training.precision)
    fabric.launch()
    return fabric


def save_result(
    folder: Path, end: StageEnd, recipe: Recipe, space: LabelSpace, image_size: tuple[int, ...] | None = None
) -> None:
    """The network of a finished stage, with all that ``load`` needs."""
    chain = {
        name: settings.model_dump(mode="json")
        for name, settings in end.settings.chain.items()
        if name in end.inference_refiners
    }
    extra = {
        "data": recipe.target_data.read_by(normalization_of(end.predictor)).model_dump(mode="json"),
        "refine": chain,
        "window": recipe.window,
        "merge": recipe.merge,
        "image_size": image_size,
        "recipe": recipe.name,
        "trained_on": {"source": recipe.source, "target": recipe.target, "stage": end.name, "seed": recipe.seed},
    }
    save_model(folder, end.predictor, end.model, space.name, space.classes, space.colors, extra)  # pyright: ignore[reportArgumentType]
