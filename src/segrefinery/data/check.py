"""The dry run on the data: what is there, and everything that is wrong with it, before a run starts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.align import align, align_to_model
from segrefinery.data.datasets import ImageDataset, SegmentationDataset, UnlabeledView, files_of, notes_of
from segrefinery.data.decoding import DataError
from segrefinery.data.films import films_in, frames_shared
from segrefinery.data.labelled import refuse_scored
from segrefinery.data.scan import Scan, scan
from segrefinery.labels import LabelSpace, Merge

Role = Literal["source", "target", "labels", "evaluation", "model"]
RoleProgress = Callable[[Role, int, int], None]
"""Called after every image with the side, its images done and its images in all."""


@dataclass(frozen=True)
class Problem:
    """Something that stops a run (``error``) or makes its result doubtful (``warning``)."""

    severity: Literal["error", "warning"]
    role: Role
    file: str
    """The file; where no single file is to blame, the data set's reference."""
    field: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.role}: {self.file}: {self.field}: {self.message}; {self.remedy}."


@dataclass(frozen=True)
class Side:
    """What one data set holds."""

    role: Role
    reference: str
    images: int
    sizes: dict[str, int]
    """``WIDTHxHEIGHT`` -> images."""
    pixels: tuple[int, ...] | None
    """Pixels of each class of the common space, then the ignored ones; None without labels or a common space."""

    @property
    def shares(self) -> tuple[float, ...] | None:
        """The part of all labelled pixels that each class has; they sum to 1."""
        if self.pixels is None:
            return None
        labelled = sum(self.pixels[:-1])
        return tuple(count / max(labelled, 1) for count in self.pixels[:-1])


@dataclass(frozen=True)
class CheckReport:
    """The result of ``check``. ``space`` is None where source and target do not go together."""

    space: LabelSpace | None
    sentence: str
    """Which classes are used, and which are ignored."""
    sides: tuple[Side, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether a run can start: there may be warnings, but no error."""
        return all(problem.severity != "error" for problem in self.problems)


def check_datasets(
    source: SegmentationDataset | None,
    target: ImageDataset,
    evaluation: SegmentationDataset | None = None,
    space: LabelSpace | str | Sequence[str] | None = None,
    merge: Merge | None = None,
    progress: RoleProgress | None = None,
    labels: SegmentationDataset | None = None,
) -> CheckReport:
    """Decode every file of a planned run and say what is there and what is wrong.

    The target's masks are not looked at, for no run does. Arguments as for ``align``; without a source ``space`` is the
    classes of the model that the run starts from.
    """
    problems: list[Problem] = []
    common, sentence, datasets = None, "", _given(source, UnlabeledView(target), evaluation, labels)
    try:
        if source is not None:
            together = align(source, target, evaluation, space, merge, labels)
        else:
            assert isinstance(space, LabelSpace), "without a source the classes are a model's"
            together = align_to_model(space, target, evaluation, merge, labels)
        common, sentence = together.space, together.sentence
        datasets = _given(together.source, together.target, together.evaluation, together.labels)
        for role, dataset in datasets:
            if role == "source":
                continue
            if ignored := together.ignored.get(role):
                who = "model" if source is None else "source"
                message = f"{', '.join(ignored)} is not used: the {who} or the label space lacks it"
                remedy = f"say with merge what the {who} calls it, if it has it"
                problems.append(_about(role, dataset, "classes", message, remedy))
    except DataError as error:
        role = _whose(error.file, datasets)
        problems.append(Problem("error", role, error.file, error.field, error.problem, error.remedy))
    except SegRefineryError as error:
        role, blamed = datasets[0]
        problems.append(Problem("error", role, blamed.reference, "classes", str(error).rstrip("."), "see above"))
    problems += overlaps(source, target, evaluation)
    sides, told = [], {(problem.role, problem.file) for problem in problems if problem.field == "masks"}
    for role, dataset in datasets:
        side, faults = _inspect(role, dataset, common, progress)
        sides.append(side)
        problems += [fault for fault in faults if (fault.role, fault.file) not in told]
    if labels is not None and evaluation is not None and not any(problem.severity == "error" for problem in problems):
        try:
            refuse_scored(labels, evaluation)
        except DataError as error:
            problems.append(Problem("error", "labels", error.file, error.field, error.problem, error.remedy))
    return CheckReport(common, sentence, tuple(sides), tuple(sorted(problems, key=lambda p: p.severity)))


def refuse_faults(
    source: ImageDataset | None,
    target: ImageDataset,
    evaluation: ImageDataset | None = None,
    progress: RoleProgress | None = None,
    labels: ImageDataset | None = None,
) -> None:
    """Decode every file of a planned run once, the target's masks excepted; data that is generated is not looked at.

    The finding is cached where there is no fault (see ``scan``). ``check`` shares it if the sides are those of
    ``align``.

    Args:
        progress: called after every image, and once for a side that is in the cache.

    Raises:
        SegRefineryError: a file is missing, unreadable or wrong. Names the first one, its field, what is wrong and the
            remedy, and how many more there are on all sides.
    """
    # A view of a view would have another fingerprint, and be read again.
    target = target if isinstance(target, UnlabeledView) else UnlabeledView(target)
    faults = []
    for role, dataset in _given(source, target, evaluation, labels):
        for note in notes_of(dataset):
            warnings.warn(f"{role}: {dataset.reference}: {note}", stacklevel=2)
        if len(dataset) and files_of(dataset, 0):
            scan = _scanned(role, dataset, progress)
            faults += _faults(role, scan) + _nothing_labelled(role, dataset, scan)
            if dataset.space is not None:
                for problem in _nothing_of(role, dataset, dataset.space, scan):
                    warnings.warn(str(problem), stacklevel=2)
    if faults:
        others = f" {len(faults) - 1} more are wrong; `segrefinery check` lists them all." if len(faults) > 1 else ""
        raise SegRefineryError(f"{faults[0]}{others}")


def _given(
    source: ImageDataset | None,
    target: ImageDataset,
    evaluation: ImageDataset | None,
    labels: ImageDataset | None = None,
) -> list[tuple[Role, ImageDataset]]:
    given: dict[Role, ImageDataset | None]
    given = {"source": source, "target": target, "labels": labels, "evaluation": evaluation}
    return [(role, dataset) for role, dataset in given.items() if dataset is not None]


def _whose(file: str, datasets: Sequence[tuple[Role, ImageDataset]]) -> Role:
    """The side that a file is of; the first where it is no image's or mask's."""
    for role, dataset in datasets:
        if any(file == str(path) for index in range(len(dataset)) for path in files_of(dataset, index)):
            return role
    return datasets[0][0]


def _scanned(role: Role, dataset: ImageDataset, progress: RoleProgress | None) -> Scan:
    return scan(dataset, None if progress is None else lambda done, total: progress(role, done, total))


def _faults(role: Role, scan: Scan) -> list[Problem]:
    return [Problem("error", role, fault.file, fault.field, fault.message, fault.remedy) for fault in scan.faults]


def _nothing_labelled(role: Role, dataset: ImageDataset, scan: Scan) -> list[Problem]:
    if scan.faults or not scan.pixels or sum(scan.pixels[:-1]):
        return []
    message, remedy = "every pixel of its masks is ignored", "name the ids of its classes, or leave the data set away"
    return [Problem("error", role, dataset.reference, "masks", message, remedy)]


def _inspect(
    role: Role, dataset: ImageDataset, common: LabelSpace | None, progress: RoleProgress | None
) -> tuple[Side, list[Problem]]:
    scan = _scanned(role, dataset, progress)
    pixels = tuple(scan.pixels) if common is not None and scan.pixels else None
    side = Side(role, dataset.reference, scan.images, scan.sizes, pixels)
    problems = _faults(role, scan)
    problems += [_about(role, dataset, "files", note, "see that this is what you mean") for note in notes_of(dataset)]
    if scan.images == 1:
        message = "there is one image only"
        problems.append(_about(role, dataset, "images", message, "give more, or the result will fit this image alone"))
    problems += _nothing_labelled(role, dataset, scan)
    if common is not None:
        problems += _nothing_of(role, dataset, common, scan)
    return side, problems


def _nothing_of(role: Role, dataset: ImageDataset, space: LabelSpace, scan: Scan) -> list[Problem]:
    """A warning where masks show nothing of some classes."""
    if scan.faults or not scan.pixels or not sum(scan.pixels[:-1]):
        return []
    if not (empty := [name for name, count in zip(space.classes, scan.pixels) if count == 0]):
        return []
    whats: dict[Role, tuple[str, str]] = {
        "source": ("which therefore cannot be learned", "leave these classes out by the label space"),
        "labels": ("of which they teach nothing", "label images that show them, if it matters"),
    }
    what, remedy = whats.get(role, ("which therefore cannot be measured", "evaluate on more images"))
    return [_about(role, dataset, "classes", f"no pixel of {', '.join(empty)}, {what}", remedy)]


def overlaps(
    source: ImageDataset | None, target: ImageDataset, evaluation: ImageDataset | None = None
) -> list[Problem]:
    """Images that are on two sides; an error only where the target is nothing but the source."""
    given = _given(source, target, evaluation)
    images = {role: _identities(dataset) for role, dataset in given}
    datasets = dict(given)
    problems = []
    pairs: tuple[tuple[Role, Role], ...] = (("target", "source"), ("evaluation", "source"), ("evaluation", "target"))
    for role, other in pairs:
        shared = images.get(role, set()) & images.get(other, set())
        if not shared:
            continue
        if role == "target" and shared == images[role]:
            message, remedy = (
                "all its images are in the source: there is nothing to adapt to",
                "name other images as the target",
            )
            problems.append(Problem("error", role, datasets[role].reference, "path", message, remedy))
        else:
            message = f"{len(shared)} of its {len(images[role])} images are also in the {other}"
            remedy = (
                "choose splits that do not overlap" if other == "source" else "the score will flatter; use other images"
            )
            problems.append(_about(role, datasets[role], "path", message, remedy))
    return problems + _neighbours(datasets)


def _neighbours(datasets: dict[Role, ImageDataset]) -> list[Problem]:
    """Images to score on that are frames of a film of the target, or between them: nearly what is learned from."""
    problems = []
    evaluation = datasets.get("evaluation")
    if evaluation is None:
        return []
    names = [evaluation.name(index) for index in range(len(evaluation))]
    for film in films_in(datasets["target"]):
        if shared := frames_shared(film, names):
            span = f"{film.numbers[0]} to {film.numbers[-1]}"
            message = (
                f"{len(shared)} of its {len(names)} images, first {shared[0]}, are by name frames of {film.path.name} "
                f"or between them, whose frames {span} are in the target"
            )
            remedy = (
                "the score will flatter; leave a part of the film to the evaluation, with from= and to= of the target"
            )
            problems.append(_about("evaluation", evaluation, "path", message, remedy))
    return problems


def _identities(dataset: ImageDataset) -> set[tuple[str, str] | Path]:
    """What tells the images of a data set from those of another: the file, or the kind of data set and the name."""
    identities: set[tuple[str, str] | Path] = set()
    for index in range(len(dataset)):
        files = files_of(dataset, index)
        identities.add(
            Path(os.path.realpath(files[0])) if files else (dataset.reference.partition(":")[0], dataset.name(index))
        )
    return identities


def _about(role: Role, dataset: ImageDataset, field: str, message: str, remedy: str) -> Problem:
    return Problem("warning", role, dataset.reference, field, message, remedy)
