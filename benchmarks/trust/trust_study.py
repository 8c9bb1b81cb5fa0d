"""Can the label-free scores be believed? Every score against the true mIoU, over the cells that studies left behind.

    python benchmarks/trust/trust_study.py train benchmarks/studies/baseline.yaml --task day2night
    python benchmarks/trust/trust_study.py table

``train`` adds runs with many looks, most of them spoilt on purpose (far too high a rate; every label trusted, with and
without the source's loss); a finished one is not run again. ``table`` reads every finished cell: the
looks of runs that have them (within a run), and the stage ends of all runs (across the runs of a task). Observations
are those the runs kept; what a run lacks is looked at once and kept. Cells that are not finished are skipped. The
results are ``benchmarks/results/trust.md``, with other forms that the combined score could have, and ``verdicts.md``,
of the verdicts of the same models and of every cell that a study kept. What was said of each model is kept in
``trust/judged.jsonl`` beside them, so that it counts when its run folder is gone.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.command import one_line_errors
from lib.ranking import SIGNS, across_table, forms_table, spearman
from lib.results import CELLS, RESULTS
from lib.verdicts import Judged, verdicts
from segrefinery.core.errors import SegRefineryError

KNOWN = Path(__file__).with_name("known.txt")
"""The runs on which the form of the combined score was chosen; all others test it."""
LOOKS = 20
JUDGED = RESULTS / "trust" / "judged.jsonl"
MODELS = 5
"""A task with fewer models says nothing of a score and is left out."""
SPOILT = {
    "plain": [],
    "rate-x20": ["stages.adapt.optimizer.lr=1.0e-2"],
    "all-labels-no-source": ["stages.adapt.refine.confidence_threshold.portion=1.0", "stages.adapt.source_weight=0"],
    "all-labels": ["stages.adapt.refine.confidence_threshold.portion=1.0"],
}


def finished_runs() -> list[Path]:
    """Run folders with results, all stages done; oracles are left out, for they have seen target labels."""
    found = []
    for results in sorted(CELLS.glob("*/*/*/results.json")):
        recipe = yaml.safe_load((results.parent / "recipe.yaml").read_text())
        ended = json.loads(results.read_text())
        if (
            not recipe.get("oracle")
            and (results.parent / "model").exists()
            and {"source_only", "adapted"} <= set(ended)
        ):
            found.append(results.parent)
    return found


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for line in lines if (record := json.loads(line))["kind"] == kind]


# -- within runs ------------------------------------------------------------------------------------------------------


def curve(run: Path) -> list[Judged]:
    """The looks at a run's adaptation, in order, with their scores; ``trust`` as it is defined today."""
    from segrefinery.evaluation.trust.verdict import combined

    task, name = run.parts[-3], "/".join(run.parts[-2:])
    looked = {(each["stage"], each["step"]): each["miou"] for each in records(run, "look")}
    source = json.loads((run / "results.json").read_text())["source_only"]["stage"]
    told = (each for each in records(run, "trust") if each["stage"] != source)
    return [
        Judged(
            task, name, f"{each['stage']}@{each['step']}", False, looked[each["stage"], each["step"]],
            each | {"trust": combined(each["balanced_scale"], each["anchors"])},
        )
        for each in told
        if (each["stage"], each["step"]) in looked
    ]  # fmt: skip


def within_table(curves: Sequence[Sequence[Judged]]) -> str:
    """Markdown: per score, Spearman within a run (median, lowest) and regret of the picked look (median, highest)."""
    lines = ["| score | Spearman, median | lowest | regret (mIoU points), median | highest |", "|---|---|---|---|---|"]
    for name, sign in SIGNS.items():
        usable = [[each for each in one if name in each.scores] for one in curves]
        usable = [one for one in usable if len(one) >= 5]
        if not usable:
            continue
        pairs = [(np.array([sign * e.scores[name] for e in one]), np.array([e.miou for e in one])) for one in usable]
        rho = [spearman(score, miou) for score, miou in pairs]
        regret = [100 * (miou.max() - miou[score.argmax()]) for score, miou in pairs]
        known = [value for value in rho if value == value] or [float("nan")]
        text = f"{np.median(known):+.2f} | {min(known):+.2f} | {np.median(regret):.1f} | {max(regret):.1f}"
        lines.append(f"| {name} | {text} |")
    last = [100 * (max(e.miou for e in one) - one[-1].miou) for one in curves if len(one) >= 5]
    if last:
        lines.append(f"| the last look, whatever its scores | | | {np.median(last):.1f} | {max(last):.1f} |")
    return "\n".join(lines)


# -- across runs ------------------------------------------------------------------------------------------------------


def observations(run: Path) -> dict[str, Any]:
    """Stage -> what its model said; looked at now where the run kept nothing."""
    from segrefinery.data.datasets import UnlabeledView, open_dataset
    from segrefinery.engine.model import load
    from segrefinery.evaluation.trust import Observation, look

    results = json.loads((run / "results.json").read_text())
    folders = {results["source_only"]["stage"]: run / "source_model", results["adapted"]["stage"]: run / "model"}
    found = {}
    for stage in results["stages"]:
        path = run / "trust" / f"{stage}.npz"
        if not path.exists() and stage in folders:
            model = load(folders[stage])
            target = UnlabeledView(open_dataset(yaml.safe_load((run / "recipe.yaml").read_text())["target"]))
            look(model.network, target, model.data, model.space.num_classes, model.window).save(path)
        if path.exists():
            found[stage] = Observation.load(path)
    return found


def judge_task(task: str, runs: Sequence[Path]) -> list[Judged]:
    """The models after all stages of a task's runs, scored against the same reference. One that several runs have in
    common, the source model first of all, counts once; it is known by its mIoU, to the last digit."""
    from segrefinery.evaluation.trust.verdict import (
        ensemble_agreement,
        expected_classes,
        pooled,
        single_scores,
        trust,
        verdict,
    )

    seen: dict[float, Any] = {}
    places: dict[float, tuple[str, str]] = {}
    source_of: dict[float, float] = {}
    for run in runs:
        name, results = "/".join(run.parts[-2:]), json.loads((run / "results.json").read_text())
        source = results["source_only"]["miou"]
        for stage, observed in observations(run).items():
            miou = results["stages"][stage]["miou"]
            if miou not in seen:
                seen[miou], places[miou], source_of[miou] = observed, (name, stage), source
    common = next(iter(seen.values()))
    seen = {k: o for k, o in seen.items() if o.names == common.names and o.probs.shape == common.probs.shape}
    reference = pooled([o for miou, o in seen.items() if miou == source_of[miou]] or [common])
    expected = expected_classes(*seen.values())
    votes = ensemble_agreement({str(miou): o for miou, o in seen.items()})
    judged = []
    for miou, observed in seen.items():
        scores = single_scores(observed, reference)
        scores |= {"trust": float(trust(observed, reference, expected)), "ensemble": votes[str(miou)]}
        source = source_of[miou]
        word = gain = None
        if source in seen and miou != source:
            word, gain = verdict(observed, seen[source]).word, miou - source
        judged.append(Judged(task, *places[miou], miou == source, miou, scores, word, gain))
    return judged


def kept_and(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    """By task: the models that were judged before, and those judged now; all are kept. A model is known by its task and
    its mIoU."""
    lines = JUDGED.read_text().splitlines() if JUDGED.exists() else []
    models = {(each.task, each.miou): each for each in [*(Judged(**json.loads(line)) for line in lines), *judged]}
    JUDGED.parent.mkdir(parents=True, exist_ok=True)
    JUDGED.write_text("".join(f"{json.dumps(asdict(each))}\n" for each in models.values()))
    by_task: dict[str, list[Judged]] = {}
    for each in models.values():
        by_task.setdefault(each.task, []).append(each)
    return {task: models for task, models in sorted(by_task.items()) if len(models) >= MODELS}


# -- commands ---------------------------------------------------------------------------------------------------------


def train(study: Path, task: str, steps: int, seeds: Sequence[int]) -> None:
    """Run the spoilt recipes on a task, one after the other, with ``LOOKS`` looks each."""
    described = yaml.safe_load(study.read_text())
    sets = described["tasks"][task]
    for name, overrides in SPOILT.items():
        for seed in seeds:
            folder = CELLS / task / f"looks-{name}" / f"seed{seed}"
            options = [*described.get("set", []), *overrides, f"stages.adapt.steps={steps}"]
            options.append(f"training.look_every={max(1, steps // LOOKS)}")
            command = [
                sys.executable, "-m", "segrefinery", "adapt", "--recipe=self_training",
                f"--scale={described.get('scale', 'small')}", f"--source={sets['source']}",
                f"--target={sets['target']}", f"--eval={sets['evaluation']}", f"--seed={seed}", f"--output={folder}",
                f"--reuse={CELLS / 'stages'}", "--resume", *(f"--set={option}" for option in options),
            ]  # fmt: skip
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder.parent / f"seed{seed}.log", "w") as log:
                status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
            print(f"{task} {name} seed {seed}: {'done' if status == 0 else f'failed, see {log.name}'}", flush=True)


def judged_models(runs: Sequence[Path]) -> dict[str, list[Judged]]:
    """By task: the models of these runs and those that were kept."""
    by_task: dict[str, list[Path]] = {}
    for run in runs:
        by_task.setdefault(run.parts[-3], []).append(run)
    return kept_and([each for task, own in by_task.items() for each in judge_task(task, own)])


def ranking(runs: Sequence[Path], judged: dict[str, list[Judged]]) -> str:
    """The page on the scores."""
    from segrefinery.engine.environment import environment

    curves = [one for run in runs if (one := curve(run))]
    machine = environment()
    where = f"{machine['processor']}, {machine['cores']} cores, torch {machine['packages']['torch']}"
    if machine["gpu"]:
        where += f", {machine['gpu']}"
    parts = [
        "# Can the label-free scores be believed?",
        f"{sum(map(len, judged.values()))} models; {len(runs)} runs looked at anew on {where}, "
        f"{sum(map(len, curves))} looks in {len(curves)} of them.",
        "## Within a run: the looks at one adaptation",
        within_table(curves) if curves else "No run has looks; see `train`.",
        "## Across runs: the stage ends of all runs of a task",
        across_table(judged) if judged else f"No task has {MODELS} models.",
    ]
    if len(judged) > 1:
        parts += ["## Would another form rank better? Spearman, products of at most three scores", forms_table(judged)]
    return "\n\n".join(parts) + "\n"


def models_of(page: str) -> int:
    """On how many models a page rests, or, as older pages count, on how many runs."""
    found = re.search(r"^(\d+) (?:models|runs)", page, flags=re.M)
    return int(found[1]) if found else 0


def refuse_fewer(path: Path, text: str) -> None:
    """Keep a page that rests on models whose runs are gone.

    Raises:
        SegRefineryError: the new page rests on fewer models than the one that stands.
    """
    stands = models_of(path.read_text()) if path.exists() else 0
    if models_of(text) < stands:
        raise SegRefineryError(
            f"{path}: rests on {stands} models, and the runs under {CELLS} with those in {JUDGED.name} are "
            f"{models_of(text)}; it stays as it is. Run what is missing, or remove it to begin anew"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train")
    training.add_argument("study", type=Path, help="a study file, for its tasks and scale")
    training.add_argument("--task", required=True)
    training.add_argument("--steps", type=int, default=200)
    training.add_argument("--seeds", type=int, nargs="+", default=[0])
    commands.add_parser("table")
    arguments = parser.parse_args()
    if arguments.command == "train":
        train(arguments.study, arguments.task, arguments.steps, arguments.seeds)
        return
    runs = finished_runs()
    judged = judged_models(runs)
    known = {line for line in KNOWN.read_text().splitlines() if not line.startswith("#")}
    page = verdicts(judged, RESULTS, known)
    print(page)
    written(RESULTS / "verdicts.md", page)
    text = ranking(runs, judged)
    print(text)
    refuse_fewer(RESULTS / "trust.md", text)
    written(RESULTS / "trust.md", text)


def written(path: Path, text: str) -> None:
    """Write a page."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    one_line_errors(main)
