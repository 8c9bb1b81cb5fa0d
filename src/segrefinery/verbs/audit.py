"""A few labels, well spent: pick the target images worth labelling, and turn their masks into mIoU with an interval."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import yaml
from PIL import Image
from pydantic import Field
from torch import Tensor

from segrefinery.core.arguments import checked
from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import only_writer, readable, refuse_unwritable, write_json, write_text
from segrefinery.core.pixels import shown
from segrefinery.core.randomness import generator
from segrefinery.data.datasets import Chosen, ImageDataset, UnlabeledView, bands_of, open_dataset
from segrefinery.data.decoding import read_ids
from segrefinery.data.label_files import file_stem, palette_image, save_png
from segrefinery.data.settings import References
from segrefinery.engine.folders import SOURCE_ONLY, model_folders
from segrefinery.engine.model import Model, load
from segrefinery.evaluation.confusion import ConfusionMatrix
from segrefinery.evaluation.estimate import Scored, estimates
from segrefinery.evaluation.trust.collect import sample_images
from segrefinery.interchange.annotation import read_masks, write_cvat, write_label_studio
from segrefinery.interchange.raster import write_bands
from segrefinery.labels import IGNORE, LabelSpace
from segrefinery.models.weights import CONFIG
from segrefinery.verbs.compare import check_classes
from segrefinery.verbs.named import named_images, refuse_inside
from segrefinery.verbs.taught import taught_remark

POOL = 400
"""Images among which the audited ones are picked."""
STRATA = 4
RECORD = "audit.json"
SHOWN = 3
"""Bands that a picture shows a person."""
LABELLED = "labelled"
"""The masks that came back, as a data set: ``folder:AUDIT/labelled``."""


@dataclass
class Picked:
    """An image to label.

    Attributes:
        index, name: in the target. stem: of its files. height, width: of the image.
        doubt: share of its pixels on which the models disagree. stratum: of doubt, 0 = least.
        weight: how many images of the target it stands for.
    """

    index: int
    name: str
    stem: str
    height: int
    width: int
    doubt: float
    stratum: int
    weight: float


@dataclass
class Audit:
    """An audit as it stands.

    Attributes:
        folder: what it was written to. picked: the images to label.
        models: what the masks say of each model, best first; empty before there are masks.
        remarks: in sentences, what to know of the masks.
    """

    folder: Path
    picked: list[Picked]
    models: list[Scored] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@checked
def audit(
    run: str | Path,
    target: References,
    output: str | Path | None = None,
    count: Annotated[int, Field(ge=2)] = 20,
    *,
    masks: str | Path | None = None,
    others: Sequence[str | Path] = (),
    seed: Annotated[int, Field(ge=0)] = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Audit:
    """Pick the images whose labels tell most, and write starting masks for them; or score models by the masks.

    Args:
        output: the audit's folder, by default ``RUN/audit``. count: images to label.
        masks: the folder of the corrected masks; without it the images are picked.
        others: runs to score on the same masks.

    Raises:
        SegRefineryError: as ``prepare_audit`` and ``score_audit`` say.
    """
    folder, named = Path(output) if output is not None else Path(run) / "audit", named_images("target", target)
    if masks is None:
        return Audit(folder, prepare_audit(run, named, folder, count, seed=seed, progress=progress))
    return score_audit(run, named, folder, masks, others, progress=progress)


def prepare_audit(
    run: str | Path,
    target: str,
    output: str | Path,
    count: int = 20,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Picked]:
    """Pick ``count`` target images and write them with their present prediction as starting masks.

    The images are sorted into strata by doubt: the share of pixels on which the adapted model and source-only disagree
    (without a source-only model, on which the model disagrees with its own view of the mirrored image). Doubtful strata
    give more images; weights undo that when mIoU is estimated.

    ``output`` then holds ``images/``, ``masks/`` (class ids), ``cvat.zip``, ``cvat_labels.json``,
    ``label_studio.json``, ``label_studio.xml`` and ``audit.json``.

    Raises:
        SegRefineryError: no model, fewer than two images, or the folder holds an audit already.
    """
    folder = Path(output)
    refuse_second(folder)
    refuse_unwritable(folder / RECORD)
    dataset = UnlabeledView(open_dataset(target))
    refuse_inside(folder, dataset)
    model = load(run)
    if len(dataset) < 2 or count < 2:
        raise SegRefineryError(f"an audit needs at least two images: {target} has {len(dataset)}, -n asks for {count}")
    model.refuse_other_bands(dataset)
    before = Path(run) / SOURCE_ONLY
    other = load(before) if (before / CONFIG).exists() else None
    pool = sample_images(dataset, max(POOL, count), seed)
    doubts = []
    for done, index in enumerate(pool, 1):
        doubts.append(doubt(model, other, dataset.image(index)))
        progress(done, len(pool))
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        refuse_second(folder)
        picked = []
        for place, stratum, weight in stratify(doubts, count, len(dataset), seed):
            index = pool[place]
            name, (height, width) = dataset.name(index), dataset.image(index).shape[-2:]
            stem = file_stem(index, name)
            picked.append(Picked(index, name, stem, height, width, doubts[place], stratum, weight))
        hand_out(folder, picked, model, dataset, Path(run).name)
        record = {"target": target, "classes": list(model.space.classes), "images": [asdict(one) for one in picked]}
        write_json(folder / RECORD, record)
    return picked


def refuse_second(folder: Path) -> None:
    """Raises:
    SegRefineryError: the folder holds an audit."""
    if (folder / RECORD).exists():
        raise SegRefineryError(
            f"{folder}: holds an audit already; name a new folder with -o, or its masks with --masks"
        )


def hand_out(folder: Path, picked: Sequence[Picked], model: Model, dataset: ImageDataset, version: str) -> None:
    """Write the images, and what the model says of them as starting masks, for annotation tools."""
    masks = {}
    for one in picked:
        image = dataset.image(one.index)
        mask = model.predict(image).argmax(dim=0).to(torch.uint8).cpu().numpy()
        save_png(folder / "images" / f"{one.stem}.png", Image.fromarray(shown(image).permute(1, 2, 0).numpy()))
        save_png(folder / "masks" / f"{one.stem}.png", Image.fromarray(mask))
        masks[one.stem] = mask
    write_cvat(folder, masks, model.space)
    write_label_studio(folder, masks, model.space, version)


def score_audit(
    run: str | Path,
    target: str,
    output: str | Path,
    masks: str | Path,
    others: Sequence[str | Path] = (),
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Audit:
    """mIoU of this and other runs' models on the audited images, each with its interval, best first. The masks are kept
    as a data set in ``output/labelled``.

    Args:
        output: the folder ``prepare_audit`` wrote. masks: the folder with the corrected masks (see ``read_masks``).

    Raises:
        SegRefineryError: no audit there, another target or other classes, or masks that are missing or do not fit.
    """
    picked = read_audit(Path(output), target)
    folders = {name: folder for each in (run, *others) for name, folder in model_folders(Path(each)).items()}
    check_classes(folders)
    space = load(run).space
    labels = read_masks(Path(masks), {one.stem: (one.height, one.width) for one in picked}, space)
    if all(torch.equal(label, starting_mask(Path(output), stem)) for stem, label in labels.items()):
        raise SegRefineryError(
            f"{masks}: the starting masks, unchanged: a model would be scored on its own answers; correct them"
        )
    starting = {stem: starting_mask(Path(output), stem) for stem in labels}
    told = remarks(str(masks), labels, starting, space.classes)
    images = open_dataset(target)
    dataset = UnlabeledView(images)
    for one in picked:
        if one.index >= len(dataset) or dataset.name(one.index) != one.name:
            raise SegRefineryError(
                f"{target}: image {one.index} is not {one.name!r}; the target changed since the audit"
            )
    keep_labelled(Path(output), labels, space, dataset, {one.stem: one.index for one in picked})
    told.append(f"the masks are a data set now, which may also teach: --labels folder:{Path(output) / LABELLED}")
    counts, audited = {}, UnlabeledView(Chosen(images, [one.index for one in picked]))
    for number, (name, folder) in enumerate(folders.items()):
        told += [remark] if (remark := taught_remark(name, folder, audited)) else []
        model = load(folder)
        counts[name] = torch.stack([count_image(model, dataset.image(one.index), labels[one.stem]) for one in picked])
        progress(number + 1, len(folders))
    reference = next((name for name, folder in folders.items() if folder.name == SOURCE_ONLY), None)
    scored = sorted(estimate_scores(counts, picked, reference), key=lambda model: -model.miou)
    return Audit(Path(output), picked, scored, told)


def keep_labelled(
    folder: Path, labels: dict[str, Tensor], space: LabelSpace, target: ImageDataset, places: Mapping[str, int]
) -> None:
    """Write the masks as class ids into ``folder/labelled``, with the ``dataset.yaml`` that makes them and the audit's
    images a data set.

    Args:
        labels: stem -> H x W ids, 255 unlabelled. places: stem -> the image's place in ``target``. The audit's pictures
            show three bands; images of others are written beside the masks.
    """
    bands = bands_of(target)
    for stem, label in labels.items():
        save_png(folder / LABELLED / "masks" / f"{stem}.png", palette_image(label, space))
        if bands != SHOWN:
            write_bands(
                folder / LABELLED / "images" / f"{stem}.tif", target.image(places[stem]).permute(1, 2, 0).numpy()
            )
    of_bands = {"images": f"{LABELLED}/images/{{name}}.tif", "bands": list(range(1, bands + 1))}
    described = {
        "root": "..",
        **({"images": "images/{name}.png"} if bands == SHOWN else of_bands),
        "masks": f"{LABELLED}/masks/{{name}}.png",
        "classes": dict(enumerate(space.classes)),
        "colors": {name: list(color) for name, color in zip(space.classes, space.colors, strict=True)},
    }
    text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True)
    write_text(folder / LABELLED / "dataset.yaml", text)


def remarks(masks: str, labels: dict[str, Tensor], starting: dict[str, Tensor], classes: Sequence[str]) -> list[str]:
    """What to know of masks that came back: the unlabelled share, and the classes without a reference pixel.

    Args:
        labels: stem -> H x W ids, 255 unlabelled. starting: the same as handed out, empty where it is gone.

    Raises:
        SegRefineryError: the masks hold one class or none, or a class whose pixels are nearly all unlabelled now.
    """
    flat = torch.cat([label.flatten() for label in labels.values()])
    present = set(flat.unique().tolist()) - {IGNORE}
    if len(present) < 2:
        what = f"only {classes[present.pop()]}" if present else "nothing"
        raise SegRefineryError(f"{masks}: the masks label {what}; export all classes, as ids 0 to {len(classes) - 1}")
    for index in set(range(len(classes))) - present:
        now = torch.cat([labels[stem][mask == index] for stem, mask in starting.items() if mask.numel()] or [flat[:0]])
        if len(now) and float((now == IGNORE).double().mean()) > 0.5:
            raise SegRefineryError(
                f"{masks}: {classes[index]!r} is in no mask, and most of its starting pixels are unlabelled now; "
                "export every class"
            )
    absent = [name for index, name in enumerate(classes) if index not in present]
    lines = [f"{100 * float((flat == IGNORE).double().mean()):.1f} % of the pixels are unlabelled and do not count"]
    return lines + ([f"no mask has a pixel of {', '.join(absent)}"] if absent else [])


def starting_mask(folder: Path, stem: str) -> Tensor:
    """The prediction an image was handed out with; empty if the file is gone."""
    path = folder / "masks" / f"{stem}.png"
    return read_ids(path).long() if path.exists() else torch.zeros(0)


def doubt(model: Model, other: Model | None, image: Tensor) -> float:
    """Share of the pixels on which two models, or a model and its mirror image, disagree."""
    predicted = model.predict(image).argmax(dim=0)
    if other is not None:
        second = other.predict(image).argmax(dim=0)
    else:
        second = model.predict(image.flip(-1)).argmax(dim=0).flip(-1)
    return float((predicted != second).double().mean())


def stratify(doubts: Sequence[float], count: int, total: int, seed: int = 0) -> list[tuple[int, int, float]]:
    """Pick ``count`` of the images (all, if there are fewer) -> place, stratum and weight of each.

    The strata are equally large parts of the images in order of doubt. Each gives at least two; the rest is shared out
    in proportion to the strata's mean doubt. A weight is the number of images of the target (``total``) that an image
    stands for.
    """
    count = min(count, len(doubts))
    order = np.argsort(np.asarray(doubts), kind="stable")
    strata = np.array_split(order, max(1, min(STRATA, count // 2)))
    means = np.array([max(np.mean([doubts[i] for i in part]), 1e-6) for part in strata])
    quota = np.array([min(2, len(part)) for part in strata])
    while quota.sum() < count:
        room = np.array([len(part) > taken for part, taken in zip(strata, quota, strict=True)])
        wanting = np.where(room, means / (quota + 0.5), -1.0)
        quota[int(wanting.argmax())] += 1
    chosen = []
    for number, (part, taken) in enumerate(zip(strata, quota.tolist(), strict=True)):
        drawn = torch.randperm(len(part), generator=generator(seed, "audit", number, len(part)))[:taken].tolist()
        weight = len(part) / taken * total / len(doubts)
        chosen += [(int(part[i]), number, weight) for i in sorted(drawn)]
    return chosen


def count_image(model: Model, image: Tensor, label: Tensor) -> Tensor:
    """C x C counts of one image."""
    matrix = ConfusionMatrix(model.space.num_classes)
    prediction = model.predict(image, (label.shape[-2], label.shape[-1])).argmax(dim=0).cpu()
    matrix.update(prediction, label)
    return matrix.matrix


def estimate_scores(counts: dict[str, Tensor], picked: Sequence[Picked], reference: str | None) -> list[Scored]:
    """mIoU over the target from N x C x C counts of each model, and intervals from the same draws for all."""
    return estimates(counts, [one.weight for one in picked], [one.stratum for one in picked], reference)


def read_audit(folder: Path, target: str) -> list[Picked]:
    """The images an audit picked.

    Raises:
        SegRefineryError: there is no audit, or it is of another target.
    """
    try:
        record: dict[str, Any] = json.loads(readable(folder / RECORD).read_text(encoding="utf-8"))
        picked, audited = [Picked(**one) for one in record["images"]], record["target"]
    except FileNotFoundError:
        raise SegRefineryError(
            f"{folder}: holds no audit; start one without --masks, or name its folder with -o"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise SegRefineryError(
            f"{folder / RECORD}: not readable ({reason}); pick the images anew into another folder with -o"
        ) from error
    if audited != target:
        raise SegRefineryError(f"{folder}: audits {audited}, not {target}; name that target")
    return picked
