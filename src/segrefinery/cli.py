"""The verbs as commands."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from segrefinery import terminal
from segrefinery.core.errors import SegRefineryError, in_one_line
from segrefinery.core.lazy import later
from segrefinery.core.processor import keep_freed_memory, share_fairly
from segrefinery.core.progress import counting_progress, training_progress
from segrefinery.core.stopping import Stopped, stoppable
from segrefinery.core.words import printable
from segrefinery.options import (
    Device,
    Engine,
    EvalHelp,
    LabelsHelp,
    Overrides,
    SeveralHelp,
    SourceHelp,
    StartHelp,
    TargetHelp,
    Window,
    Workers,
)

if TYPE_CHECKING:
    from segrefinery.engine.events import RunEvents

app = typer.Typer(
    help="Adapt a semantic-segmentation model to images nobody has labelled.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
MAIN = os.environ.get("RANK", "0") == "0"
"""Whether this process speaks; torchrun starts several."""
SHARED = ("adapt", "demo", "predict", "pseudo-label")
"""The commands that several processes share; the first process does the others alone."""
console = Console(highlight=False, quiet=not MAIN, emoji=False)
refuse_missing = later("segrefinery.verbs.named:refuse_missing")


def say_version(wanted: bool) -> None:
    if wanted:
        from segrefinery import __version__

        print(f"segrefinery {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=say_version, is_eager=True, help="Say the version and end.")
    ] = False,
) -> None:
    """Adapt a semantic-segmentation model to images nobody has labelled."""
    if not MAIN and context.invoked_subcommand not in SHARED:
        raise typer.Exit
    keep_freed_memory()


@app.command()
def adapt(
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder.")],
    target: Annotated[list[str] | None, typer.Option("--target", "-t", help=f"{TargetHelp} {SeveralHelp}")] = None,
    source: Annotated[list[str] | None, typer.Option("--source", "-s", help=f"{SourceHelp} {SeveralHelp}")] = None,
    start: Annotated[str | None, typer.Option("--from", help=StartHelp)] = None,
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="Name (see `recipes`) or YAML file.")] = "self_training",
    labels: Annotated[list[str] | None, typer.Option("--labels", "-l", help=LabelsHelp)] = None,
    evaluation: Annotated[list[str] | None, typer.Option("--eval", "-e", help=EvalHelp)] = None,
    oracle: Annotated[str | None, typer.Option(help="Labelled target images, for the recipe oracle only.")] = None,
    scale: Annotated[str | None, typer.Option(help="small: two processor cores; paper: the publication's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="By default the recipe's, which is 0.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in this folder, exactly.")] = False,
    overrides: Overrides = None,
    reuse: Annotated[
        Path | None, typer.Option(help="Run, or folder shared by runs, to take finished stages from.")
    ] = None,
    on_collapse: Annotated[
        str | None, typer.Option(help="warn, rollback or stop, when the labels look like a collapse.")
    ] = None,
) -> None:
    """Adapt a model to unlabelled target images and write a report."""
    from segrefinery.recipe import also_set
    from segrefinery.verbs.adapt import adapt

    changes = also_set(overrides or (), "training.on_collapse", on_collapse, "--on-collapse")
    with told_on_terminal() as events:
        adapt(
            recipe, source, target, output, start=start, labels=labels, evaluation=evaluation, oracle=oracle,
            scale=scale, seed=seed, overrides=changes, resume=resume, reuse=reuse,
            events=events,
        )  # fmt: skip


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    resume: Annotated[bool, typer.Option("--resume")] = False,
) -> None:
    """Adapt from day to night on embedded scenes, without a single target label: minutes on two cores."""
    from segrefinery.engine.folders import RECIPE
    from segrefinery.verbs.adapt import adapt

    with told_on_terminal() as events:
        adapt(
            "self_training", "scenes:day,count=400", "scenes:night,count=400", output,
            evaluation="scenes:night,count=100@test",
            scale="small", seed=seed, resume=resume or (output / RECIPE).exists(), events=events,
        )  # fmt: skip


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder, or a model folder.")],
    on: Annotated[list[str], typer.Option("--on", help=rf"Labelled images: NAME:PATH\[@SPLIT]. {SeveralHelp}")],
    classes: Annotated[
        str | None, typer.Option(help="Score on these alone: a label space (synthia13), or names with commas.")
    ] = None,
    window: Window = None,
    device: Device = None,
) -> None:
    """Score a model on labelled images."""
    refuse_missing([run], on)
    from segrefinery.engine.model import load_as_asked
    from segrefinery.verbs.evaluate import evaluate

    model = load_as_asked(run, window, device)
    with counting_progress(console, "evaluate") as progress:
        scores = evaluate(model, on, classes=classes, progress=progress)
    terminal.show_scores(console, scores)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Run folder, or a model folder.")],
    images: Annotated[str, typer.Argument(help=r"A folder, a glob, a file, or NAME:PATH\[@SPLIT].")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    factor: Annotated[
        float, typer.Option(min=0.01, help="Size of the results over that of the images, for instance 2.")
    ] = 1.0,
    size: Annotated[
        str, typer.Option(help="Read images as they were 'trained', 'native', or with so many pixels a shorter side.")
    ] = "trained",
    format: Annotated[str, typer.Option(help="png, coco, yolo or parquet.")] = "png",
    engine: Engine = "local",
    workers: Workers = 2,
    window: Window = None,
    device: Device = None,
) -> None:
    """Segment images: class ids, colour overlay and confidence for each; large ones strip by strip."""
    refuse_missing([run], images)
    from segrefinery.engine.model import load_as_asked
    from segrefinery.verbs.predict import write_predictions

    model = load_as_asked(run, window, device)
    with counting_progress(console, "predict") as progress, terminal.writing(output):
        result = write_predictions(
            model, images, output, factor=factor, size=size, format=format, engine=engine, workers=workers,
            progress=progress,
        )  # fmt: skip
    say(result.line("images", output))
    result.refuse_missing()


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder, or a model folder.")],
    file: Annotated[Path, typer.Option("--file", "-o", help="The file, or the library's folder, to write.")],
    format: Annotated[str, typer.Option(help="onnx, torch (torch.export), hf or smp (a folder), state_dict.")] = "onnx",
    output: Annotated[str, typer.Option(help="logits, probabilities or labels.")] = "logits",
    reads: Annotated[str, typer.Option(help="uint8 (0 to 255) or float (0 to 1) RGB images.")] = "uint8",
    grid: Annotated[str, typer.Option(help="image: a value a pixel; network: on the network's own grid.")] = "image",
    size: Annotated[str | None, typer.Option(metavar="HxW", help="For images of this size alone.")] = None,
    check: Annotated[str | None, typer.Option(help="Images to check the file on; by default the run's target.")] = None,
    like: Annotated[Path | None, typer.Option(help="Of state_dict: in the layout of this checkpoint.")] = None,
) -> None:
    """Write a model as one file, or as its library's folder, and check that it computes there what it computes here."""
    from segrefinery.core.settings import two_sides

    sides = None if size is None else two_sides("--size", size)
    refuse_missing([run], check)
    from segrefinery.verbs.export import export

    chosen: Any = {"format": format, "result": output, "reads": reads, "grid": grid}
    for line in export(run, file, **chosen, size=sides, check=check, like=like).lines():
        say(line)


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="Run folder, or a model folder.")],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The hub's repository, new or yours.")],
    format: Annotated[
        str | None, typer.Option(help="ours, hf or smp; by default that of the library which the network is of.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    licence: Annotated[str | None, typer.Option(help="Of the weights, where it is not what is known of them.")] = None,
    check: Annotated[str | None, typer.Option(help="Images to check it on; by default the run's target.")] = None,
) -> None:
    """Put a model on the Hugging Face hub, with a card made from its run."""
    from segrefinery.verbs.push import push

    chosen: Any = format
    for line in push(run, repository, format=chosen, private=private, licence=licence, check=check).lines():
        say(line)


@app.command("pseudo-label")
def pseudo_label(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    target: Annotated[str, typer.Argument(help=TargetHelp)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the labels.")],
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Ignore pixels below this confidence.")] = 0.0,
    format: Annotated[str, typer.Option(help="png, coco (run lengths), yolo (outlines) or parquet.")] = "png",
    ids: Annotated[
        str | None, typer.Option(help="source: the ids and palette of the model's source; or of NAME:PATH.")
    ] = None,
    names: Annotated[str, typer.Option(help="numbered, or images: PNGs called as the images are.")] = "numbered",
    engine: Engine = "local",
    workers: Workers = 2,
    window: Window = None,
    device: Device = None,
) -> None:
    """Write a model's labels of unlabelled images, with their weights, to train other tools on."""
    refuse_missing([run], target)
    from segrefinery.engine.model import load_as_asked, origin_of
    from segrefinery.verbs.pseudo_label import write_labels

    model = load_as_asked(run, window, device)
    chosen = origin_of(run).source or ids if ids == "source" else ids
    with counting_progress(console, "label") as progress, terminal.writing(output):
        result = write_labels(
            model, target, output, threshold, format=format, ids=chosen, names=names, engine=engine, workers=workers,
            progress=progress,
        )  # fmt: skip
    say(result.line("labels", output))
    result.refuse_missing()


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders or model folders.")],
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="Images to compare on, without labels; may be repeated."),
    ] = None,
    images: Annotated[int, typer.Option("-n", min=2, help="How many of them to look at.")] = 32,
) -> None:
    """Rank models without labels, and say of each whether it is better than source-only."""
    refuse_missing(runs, target)
    from segrefinery.verbs.compare import compare

    with counting_progress(console, "look") as progress:
        ranked = compare(runs, target, images=images, progress=progress)
    terminal.show_ranking(console, runs, ranked)


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    target: Annotated[str, typer.Argument(help=TargetHelp)],
    count: Annotated[int, typer.Option("-n", min=2, help="Images to label.")] = 20,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Audit folder; by default RUN/audit.")] = None,
    masks: Annotated[Path | None, typer.Option(help="The corrected masks: score with them.")] = None,
    others: Annotated[list[Path] | None, typer.Option("--with", help="Other runs to score on the same masks.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Pick the images whose labels tell most, write starting masks for CVAT and Label Studio, score what comes back."""
    refuse_missing([run, *(others or ())], target)
    from segrefinery.verbs.audit import audit

    with counting_progress(console, "audit" if masks is None else "score") as progress:
        result = audit(run, target, output, count, masks=masks, others=others or (), seed=seed, progress=progress)
    terminal.show_audit(console, result)


@app.command()
def check(
    data: Annotated[
        list[str],
        typer.Argument(metavar="[SOURCE] TARGET", help=f"{SourceHelp} Then: {TargetHelp}", show_default=False),
    ],
    start: Annotated[str | None, typer.Option("--from", help=StartHelp)] = None,
    evaluation: Annotated[list[str] | None, typer.Option("--eval", "-e", help=EvalHelp)] = None,
    labels: Annotated[list[str] | None, typer.Option("--labels", "-l", help=LabelsHelp)] = None,
    recipe: Annotated[str, typer.Option("--recipe", "-r")] = "self_training",
    scale: Annotated[str | None, typer.Option()] = None,
    overrides: Overrides = None,
) -> None:
    """Read every file once and say what would go wrong, before anything is trained."""
    from segrefinery.verbs.check import check

    if len(data) > 2:
        raise SegRefineryError(f"check: name a source and a target, not {len(data)} data sets; join several as 'A + B'")
    source, target = (None, data[0]) if len(data) == 1 else data
    with counting_progress(console, "check") as progress:
        checkup = check(
            source, target, start=start, labels=labels, evaluation=evaluation, recipe=recipe, scale=scale,
            overrides=overrides or (), progress=progress,
        )  # fmt: skip
    terminal.show_checkup(console, checkup)
    raise typer.Exit(0 if checkup.ok else 2)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Write report.html of a run anew."""
    from segrefinery.verbs.report import report

    say(f"report: {report(run)}")


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this recipe's YAML.")] = None,
    scale: Annotated[str | None, typer.Option(help="Show it at this scale.")] = None,
) -> None:
    """List the recipes, or show one."""
    from segrefinery.recipe import dump_recipe, load_recipe, recipe_names

    if name is not None:
        sys.stdout.write(dump_recipe(load_recipe(name, scale)))
        return
    table = Table("recipe", "what it does", "stages")
    for each in recipe_names():
        recipe = load_recipe(each)
        terminal.add_row(table, each, recipe.summary, " -> ".join(recipe.stages))
    console.print(table)


def main() -> None:
    """Entry point: a mistake of the user's, or of the machine, is one line and exit code 2; ``--debug`` shows the
    traceback. A command that is stopped says how to go on, and ends with 128 and the signal's number."""
    debug = "--debug" in sys.argv
    share_fairly()  # before a verb imports torch
    warnings.showwarning = lambda message, *where: complain(f"warning: {message}")
    try:
        with stoppable() if MAIN else nullcontext(), terminal.logged(say, complain) if MAIN else nullcontext():
            app()
    except (SegRefineryError, OSError, MemoryError) as error:
        if debug:
            raise
        complain(f"error: {in_one_line(error)}")
        raise SystemExit(2) from None
    except Stopped as stopped:
        complain(f"stopped{terminal.going_on(sys.argv)}")
        raise SystemExit(stopped.exit_code) from None


def complain(line: str) -> None:
    """Say it on stderr. What all processes of a run find wrong before they join is said by the first alone."""
    if MAIN or ("torch" in sys.modules and sys.modules["torch"].distributed.is_initialized()):
        who = "" if MAIN else f"process {os.environ['RANK']}: "
        Console(stderr=True, highlight=False, soft_wrap=True, emoji=False).print(printable(who + line), markup=False)


@contextmanager
def told_on_terminal() -> Iterator[RunEvents]:
    """A run's events as bars and lines."""
    from segrefinery.engine.events import RunEvents

    class Terminal(RunEvents):
        def said(self, line: str) -> None:
            say(line)

        def progressed(self, what: str, done: int, total: int, losses: Mapping[str, float]) -> None:
            progress(what, done, total, losses)

    with training_progress(console) as progress:
        yield Terminal()


def say(line: str) -> None:
    terminal.say(console, line)


if __name__ == "__main__":
    main()
