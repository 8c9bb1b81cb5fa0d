"""What a planned run would meet, and what it would cost on this machine, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segrefinery.core.arguments import checked
from segrefinery.core.errors import SegRefineryError, first_line
from segrefinery.data.datasets import bands_of, open_dataset
from segrefinery.data.settings import References
from segrefinery.engine.events import RunEvents
from segrefinery.recipe import Recipe, load_recipe, read_recipe
from segrefinery.verbs.named import NO_TARGET, named_data, refuse_nothing_to_adapt, with_start

if TYPE_CHECKING:
    from segrefinery.data.check import CheckReport, Role
    from segrefinery.data.transforms import DataSettings
    from segrefinery.models.networks import ModelSettings
    from segrefinery.models.trained import StartModel
    from segrefinery.verbs.cost import Estimate


@dataclass(frozen=True)
class Checkup:
    """What ``check`` found.

    Attributes:
        data: counts, sizes, classes, and problems with their remedies. recipe: as it would be run.
        estimate: None where source and target do not go together, or no pass of the network can be run.
        unknown: why there is no estimate, where a pass failed.
        remarks: in sentences, of the model to start from: what it is, and what a run from it leaves out.
        scales: names of the recipe's smaller budgets, where that of the paper was checked.
        read_at: of each side, height and width at which images of its most frequent size are read.
    """

    data: CheckReport
    recipe: Recipe
    estimate: Estimate | None
    unknown: str | None = None
    remarks: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()
    read_at: Mapping[Role, tuple[int, int]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether a run can start: there may be warnings, but no error."""
        return self.data.ok


@checked
def check(
    source: References | None,
    target: References | None,
    *,
    start: str | Path | None = None,
    labels: References | None = None,
    evaluation: References | None = None,
    recipe: str | Path = "self_training",
    scale: str | None = None,
    overrides: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Checkup:
    """Read every file of a planned run once -> what the data hold, what is wrong with them, what the recipe would cost.

    Args:
        source, target, start, labels, evaluation, recipe, scale, overrides: as for ``adapt``.
        progress: told of the images read, and of how many there are on all sides.

    Raises:
        SegRefineryError: the recipe, a data set or the model does not exist at all, or a stage needs a source.
    """
    named = {"source": source, "target": target, "labels": labels, "evaluation": evaluation}
    remarks = Remarks()
    fields = {role: named_data(role, data) for role, data in named.items()}
    plan = load_recipe(recipe, scale, with_start(overrides, start), **fields)
    given: dict[Any, str] = {role: data for role in named if (data := getattr(plan, role)) is not None}
    if "target" not in given:
        raise SegRefineryError(NO_TARGET)
    refuse_nothing_to_adapt(plan)
    sets: dict[Role, Any] = {role: open_dataset(reference) for role, reference in given.items()}
    from segrefinery.data.check import check_datasets  # here, for torch takes seconds to import
    from segrefinery.verbs.cost import estimate_cost
    from segrefinery.verbs.sets import space_of
    from segrefinery.verbs.start import started

    plan, model = started(plan, None, remarks)
    begins, total = {}, 0
    for role, dataset in sets.items():
        begins[role], total = total, total + len(dataset)
    space = plan.classes if model is None or "source" in given else space_of(model, plan.classes)
    report = check_datasets(
        **{"source": None, **sets}, space=space, merge=plan.merge,
        progress=lambda role, done, _: progress(begins[role] + done, total),
    )  # fmt: skip
    report, read_at = with_sizes(report, plan), sizes_read(report, plan)
    if report.space is None:
        return Checkup(report, plan, None, remarks=tuple(remarks.lines), read_at=read_at)
    classes = report.space.num_classes
    if model is not None:
        report = with_model(report, model, plan, bool({"source", "labels"} & given.keys()), remarks)
    elif plan.model.network.weights not in (None, "imagenet", "none"):
        report = with_weights(report, plan.model.network)
    try:
        images = sets.get("source", sets["target"])
        network = plan.model.network.model_copy(update={"bands": bands_of(images)}) if model is None else model.network
        cost, unknown = estimate_cost(plan, classes, network), None
    except (SegRefineryError, RuntimeError, MemoryError) as error:
        cost, unknown = None, first_line(error)
    scales = tuple(read_recipe(recipe)[0].get("scales") or ()) if plan.scale == "paper" else ()
    return Checkup(report, plan, cost, unknown, tuple(remarks.lines), scales, read_at)


class Remarks(RunEvents):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def said(self, line: str) -> None:
        self.lines.append(line)


def data_of(plan: Recipe, role: Role) -> DataSettings:
    """How images of a side are read: those of the target, whatever they are for, as the target."""
    return plan.data if role == "source" else plan.target_data


def with_sizes(report: CheckReport, plan: Recipe) -> CheckReport:
    """The report, and what is odd in how the recipe reads all images of a side: a window that does nothing, images that
    are enlarged far or do not fill a crop."""
    from segrefinery.data.check import Problem
    from segrefinery.verbs.zoom import inert_window, odd_training

    problems = list(report.problems)
    for side in report.sides:
        data, sizes = data_of(plan, side.role), [two_sides_of(size) for size in side.sizes]
        remarks = {}
        if side.role == "target":
            remarks["window"] = [inert_window(plan.window, data, size) for size in sizes]
        if side.role != "evaluation":
            remarks["sizes"] = [odd_training(data, size) for size in sizes]
        for name, lines in remarks.items():
            for line in lines[0] if lines and all(lines) else ():
                message, _, remedy = line.partition("; ")
                problems.append(Problem("warning", side.role, side.reference, name, message, remedy))
    return replace(report, problems=tuple(problems))


def sizes_read(report: CheckReport, plan: Recipe) -> dict[Role, tuple[int, int]]:
    """Height and width at which images of each side's most frequent size are read."""
    from segrefinery.data.transforms import evaluation_size, read_size

    read = {}
    for side in report.sides:
        resized = evaluation_size if side.role == "evaluation" else read_size
        most = max(side.sizes, key=lambda size: side.sizes[size], default=None)
        if most is not None:
            read[side.role] = resized(two_sides_of(most), data_of(plan, side.role))
    return read


def two_sides_of(size: str) -> tuple[int, int]:
    """Height and width of ``WIDTHxHEIGHT``."""
    width, height = map(int, size.split("x"))
    return height, width


def with_model(report: CheckReport, model: StartModel, plan: Recipe, taught: bool, remarks: Remarks) -> CheckReport:
    """The report, and whether a model goes with the run's classes and stages."""
    from segrefinery.engine.fits import refuse_one_learner
    from segrefinery.engine.start import make_ready

    assert report.space is not None
    try:
        ready = make_ready(model, report.space.classes, taught, remarks.said)
        for name, stage in plan.stages.items():
            if stage.model is None:
                refuse_one_learner(name, stage, ready.network, model.network.name)
    except SegRefineryError as error:
        return with_error(report, model.origin, "classes", error)
    return report


def with_weights(report: CheckReport, network: ModelSettings) -> CheckReport:
    """The report, and whether weights that lie in a file go with the network and the run's classes."""
    from segrefinery.models.start import new_network

    assert report.space is not None
    try:
        new_network(network, report.space.classes)
    except SegRefineryError as error:
        return with_error(report, str(network.weights), "model.weights", error)
    return report


def with_error(report: CheckReport, origin: str, field: str, error: SegRefineryError) -> CheckReport:
    """The report, and what is wrong with a model."""
    from segrefinery.data.check import Problem

    text = str(error).removeprefix("model.weights: ").removeprefix(f"{origin}: ").rstrip(".")
    said, _, remedy = text.rpartition("; ")
    problem = Problem("error", "model", origin, field, said or remedy, remedy if said else "see above")
    return replace(report, problems=(problem, *report.problems))
