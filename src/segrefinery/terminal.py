"""What verbs return, as tables and sentences on a terminal."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.words import printable

if TYPE_CHECKING:
    from segrefinery.data.check import CheckReport, Role
    from segrefinery.evaluation.estimate import Scored
    from segrefinery.verbs.audit import Audit
    from segrefinery.verbs.check import Checkup
    from segrefinery.verbs.compare import Ranked
    from segrefinery.verbs.cost import Estimate


GOES_ON = {
    "adapt": "with --resume goes on from the last checkpoint",
    "demo": "with --resume goes on from the last checkpoint",
    "predict": "does what is missing",
    "pseudo-label": "does what is missing",
}
"""How a command goes on that was stopped."""
LONG = 86_400
"""Seconds of a run that make its smaller budgets worth naming."""


def say(console: Console, line: str) -> None:
    console.print(printable(line), markup=False, soft_wrap=True)


def add_row(table: Table, *cells: str) -> None:
    """A row of plain words: no name in it is taken for markup."""
    table.add_row(*(Text(printable(cell)) for cell in cells))


def going_on(line: Sequence[str]) -> str:
    """How the command of a line goes on that was stopped, to put behind that it was; empty where it starts anew."""
    command = next((part for part in line[1:] if not part.startswith("-")), "")
    return f"; the same command {GOES_ON[command]}" if command in GOES_ON else ""


def show_scores(console: Console, scores: Mapping[str, Any]) -> None:
    """What ``evaluate`` found."""
    table = Table("class", "IoU")
    for name, value in scores["iou"].items():
        add_row(table, name, "absent" if value is None else f"{100 * value:.1f}")
    console.print(table)
    if scores["missing"]:
        say(console, f"Not scored, for no label here can be one of them: {', '.join(scores['missing'])}.")
    say(
        console,
        f"mIoU {100 * scores['miou']:.2f}, pixel accuracy {100 * scores['pixel_accuracy']:.2f}, "
        f"mean pixel accuracy {100 * scores['mean_pixel_accuracy']:.2f}",
    )
    for name, each in scores.get("sets", {}).items():
        say(console, f"{name}: mIoU {100 * each['miou']:.2f}, pixel accuracy {100 * each['pixel_accuracy']:.2f}")


def show_ranking(console: Console, runs: Sequence[Path], ranked: Sequence[Ranked]) -> None:
    """What ``compare`` found of these runs, each model once."""
    one_kind = len({run.is_absolute() for run in runs}) == 1
    shared = Path(os.path.commonpath([run.parent for run in runs])) if one_kind else Path()
    caption = (
        "trust: the score that ranks; scale: agreement with itself at another scale, over the classes that any of "
        "these models sees; anchors: share of what source-only was sure of and this model keeps; verdict: against "
        "source-only, over the classes that either of the two sees"
    )
    columns = ("model", "trust", "scale", "anchors", "ensemble", "entropy", "verdict")
    table = Table(*columns, title=Text(printable(f"Models in {shared}")), caption=caption, caption_justify="left")
    table.columns[0].overflow = "fold"  # names of runs differ at their ends
    table.columns[-1].no_wrap = True
    ranked = [model for model in ranked if model.same_as is None]
    for model in ranked:
        shown = ("trust", "balanced_scale", "anchors", "ensemble", "entropy")
        numbers = (f"{model.scores[score]:.3f}" for score in shown)
        name = model.name.removeprefix(f"{shared}{os.sep}")
        add_row(table, name, *numbers, model.verdict.word if model.verdict else "")
    console.print(table)
    for model in ranked:
        if model.verdict:
            say(console, f"{model.name}: {model.verdict}")


# -- audit -------------------------------------------------------------------------------------------------------------


def show_audit(console: Console, audit: Audit) -> None:
    """What to label, or what the masks that came back say."""
    if audit.models:
        for remark in audit.remarks:
            say(console, remark)
        console.print(audit_table(audit.models))
        return
    say(
        console,
        f"{len(audit.picked)} images written to {audit.folder}. Correct the masks, then run audit again with "
        "--masks DIR.\n"
        "CVAT: new task from images/, labels from cvat_labels.json (Raw), upload cvat.zip as Segmentation mask 1.1.\n"
        "Label Studio: interface from label_studio.xml, serve the folder as local files, import label_studio.json.",
    )


def audit_table(models: Sequence[Scored]) -> Table:
    table = Table("model", "mIoU", "95 % interval", "against source-only", "95 % interval")
    for model in models:
        against = ("", "")
        if model.difference is not None:
            against = (f"{100 * model.difference:+.1f}", span(model.difference_interval))
        add_row(table, model.name, f"{100 * model.miou:.1f}", span(model.interval), *against)
    return table


def span(interval: tuple[float, float] | None) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else ""


# -- check -------------------------------------------------------------------------------------------------------------


def show_checkup(console: Console, checkup: Checkup) -> None:
    """What ``check`` found: the data and what is wrong with them, then the cost."""
    for remark in checkup.remarks:
        say(console, remark)
    show_data(console, checkup.data, checkup.read_at)
    if checkup.unknown is not None:
        say(console, f"Time and memory are not known: a pass of the network failed ({checkup.unknown}).")
    if checkup.estimate is not None:
        show_estimate(console, checkup.recipe.name, checkup.estimate)
        if checkup.estimate.seconds > LONG and checkup.scales:
            say(console, f"The same method with a smaller budget: --scale {', '.join(checkup.scales)}.")


def show_data(console: Console, report: CheckReport, read_at: Mapping[Role, tuple[int, int]]) -> None:
    """Counts, sizes, height and width at which the most frequent is read, classes, and the problems with their
    remedies."""
    sides = Table("", "data set", "images", "sizes", "read at", title="Data", title_justify="left")
    for side in report.sides:
        height, width = read_at.get(side.role, (0, 0))
        read = f"{width}x{height}" if height else ""
        add_row(sides, side.role, side.reference, str(side.images), most_frequent(side.sizes), read)
    console.print(sides)
    if report.space is not None:
        say(console, report.sentence)
        measured = [(side.role, side.shares) for side in report.sides if side.shares is not None]
        classes = Table("class", *(role for role, _ in measured), title="Share of the pixels, %", title_justify="left")
        for place, name in enumerate(report.space.classes):
            shares = (shares[place] for _, shares in measured if shares)
            add_row(classes, name, *("absent" if share == 0 else f"{100 * share:.2f}" for share in shares))
        if measured:
            console.print(classes)
    if not report.problems:
        console.print("No problem found.")
    for problem in report.problems:
        color = "red" if problem.severity == "error" else "yellow"
        console.print(Text.assemble((problem.severity, f"bold {color}"), " ", printable(problem)), soft_wrap=True)


def show_estimate(console: Console, recipe: str, estimate: Estimate) -> None:
    """Memory and time of every stage, and what was timed."""
    title = Text(printable(f"Cost of {recipe}"))
    table = Table("stage", "steps", "a step", "time", "memory", title=title, title_justify="left")
    for stage in estimate.stages:
        time = duration(stage.step_seconds), duration(stage.seconds)
        add_row(table, stage.name, f"{stage.steps:,}", *time, size(stage.memory))
    table.add_row("all", "", "", duration(estimate.seconds), "", style="bold")
    console.print(table)
    images, height, width = estimate.timed.timed
    say(
        console,
        f"Estimated from forward and backward passes of {images} x {height} x {width} pixels on {estimate.machine}"
        f"{'' if estimate.whole else ', scaled to the batch and crop of the recipe'}; reading images, passes over "
        "the data and evaluation come on top."
        + (
            " Others work on these cores now: on an idle machine it is faster, maybe several times."
            if estimate.busy
            else ""
        ),
    )


def most_frequent(sizes: Mapping[str, int]) -> str:
    """The three most frequent sizes."""
    ordered = sorted(sizes.items(), key=lambda item: -item[1])
    said = [f"{size} ({count})" if len(ordered) > 1 else size for size, count in ordered[:3]]
    return ", ".join(said) + (f" and {len(ordered) - 3} others" if len(ordered) > 3 else "")


def duration(seconds: float) -> str:
    """``0.35 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{_two_digits(seconds / size)} {unit}"
    return f"{_two_digits(seconds / 86_400)} days"


def _two_digits(value: float) -> str:
    return f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"


def size(amount: float) -> str:
    """Bytes as MiB or GiB."""
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:.0f} MiB"


class LogLines(logging.Handler):
    """What modules log, as lines: warnings with that word before, and all else as what a run says."""

    def __init__(self, say: Callable[[str], None], warn: Callable[[str], None]) -> None:
        super().__init__()
        self.say, self.warn = say, warn

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.warn(f"warning: {record.getMessage()}")
        else:
            self.say(record.getMessage())


@contextmanager
def logged(say: Callable[[str], None], warn: Callable[[str], None]) -> Iterator[None]:
    """Within, what modules log is told: by itself Python shows warnings alone."""
    logger, handler = logging.getLogger("segrefinery"), LogLines(say, warn)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """A folder that cannot be written is the user's mistake."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise SegRefineryError(f"{output}: cannot be written ({reason}); name another folder with -o") from error
