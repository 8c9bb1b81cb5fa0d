"""What do the target's batch-norm statistics do to a source model, and does the label-free score see it?

    python benchmarks/trust/norm_statistics.py RUN [RUN ...]

A run is a finished one with a source model, a target and an evaluation set. Its source model is scored as it is, with
the mean of its own statistics and the target's and with the target's alone (``statistics: chosen`` takes one of these),
and the two are judged against it without labels. The table is ``benchmarks/results/batch_norm.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.command import one_line_errors
from lib.machine import machine
from lib.results import RESULTS
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.datasets import UnlabeledView, open_dataset
from segrefinery.data.loader import WholeImages
from segrefinery.engine.model import load
from segrefinery.evaluation.trust import look, verdict
from segrefinery.models.batch_norm import measure_statistics, running_statistics
from segrefinery.recipe import load_recipe
from segrefinery.verbs.evaluate import evaluate

KEPT = (1.0, 0.5, 0.0)
HEAD = ("target", "kept of its own statistics", "mIoU", "pixels right", "verdict", "gain in trust")


def lines(run: Path) -> Iterator[tuple[str, ...]]:
    """A line of the table for each kind of statistics."""
    recipe, model = load_recipe(run / "recipe.yaml"), load(run / "source_model")
    if recipe.evaluation is None or recipe.target is None:
        raise SegRefineryError(f"{run}: the run has no evaluation set; adapt with --eval")
    if not running_statistics(model.network):
        raise SegRefineryError(f"{run}: the network has no batch norm")
    target = UnlabeledView(open_dataset(recipe.target))
    running = running_statistics(model.network)
    own = [buffer.clone() for buffer in running]
    measure_statistics(model.network, (batch.image for batch in WholeImages(target, model.data)))
    of_target = [buffer.clone() for buffer in running]
    reference = None
    for kept in KEPT:
        for buffer, before, measured in zip(running, own, of_target, strict=True):
            buffer.copy_(measured.lerp(before, kept))
        observed = look(model.network, target, model.data, model.space.num_classes, model.window)
        scores = evaluate(model, recipe.evaluation)
        judged = None if reference is None else verdict(observed, reference)
        reference = reference or observed
        yield (
            str(recipe.target), f"{kept:g}", f"{100 * scores['miou']:.1f}", f"{100 * scores['pixel_accuracy']:.1f}",
            judged.word if judged else "", f"{judged.difference:+.3f}" if judged else "",
        )  # fmt: skip


def command() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    table = [HEAD, ("---",) * len(HEAD)]
    for run in parser.parse_args().runs:
        for line in lines(run):
            print(*line, sep=" | ", flush=True)
            table.append(line)
    text = "\n".join(f"| {' | '.join(line)} |" for line in table)
    page = f"# Batch-norm statistics of the target in a source model\n\n{machine()}.\n\n## Statistics\n\n{text}\n"
    (RESULTS / "batch_norm.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    one_line_errors(command)
