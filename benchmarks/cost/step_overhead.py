"""What a training step costs beside the work of its networks. Prints Markdown.

    python benchmarks/cost/step_overhead.py --case lite0               # scale small's network, crop and batch
    python benchmarks/cost/step_overhead.py --case deeplab             # DeepLabV2 at 256 x 512
    python benchmarks/cost/step_overhead.py --case lite0 --recipes self_training,prn --repeats 5 --threads 1

Every row is a process of its own. It trains one recipe and writes down each pass that the step makes through a network
(student, teacher, discriminators): its input, and whether gradients flow. Then whole steps and replays of exactly these
passes, with their backward passes and the optimizers' steps, take turns; the ratio of their medians is the overhead:
labels, refiners, mixing, strong view, losses, moving average, clipping, and the small networks that refiners train
beside the segmenter (PRN's decoder, IR2F's function). Batches are loaded before. ``passes`` says how many passes a step
makes; where a method makes more than two of the student and one of the teacher, the second ratio is against these three
alone.
The last column is a refiner's share: 1 - (step without it) / (step with it), its own passes included.
Memory is the peak of the process through the first step, over what it held before the networks were built.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.machine import machine, peak_mib, resident_mib
from lib.passes import Pass, recorded, replay
from lib.training import Training
from lib.turns import take_turns
from segrefinery.core.processor import keep_freed_memory
from segrefinery.models.discriminator import Discriminator

NOW = {  # what a recipe waits for at first must count from the first step
    "prn": (
        "stages.adapt.refine.refinement_network.warmup=0",
        "stages.adapt.refine.pixel_contrast.warmup=0",
    ),
}
SHARE_OF = {
    "prn": "refinement_network",
    "ir2f": "implicit_rectification",
    "cpsl": "self_labeling",
    "mic": "masked_consistency",
}
RECIPES = ("self_training", "dacs", "mic", "ir2f", "prn", "cpsl", "uncerda")


@dataclass(frozen=True)
class Case:
    """A network, a size and a batch; ``scale`` of the recipes whose refiners fit to it."""

    network: str
    size: tuple[int, int]
    batch: int
    scale: str
    repeats: int

    def overrides(self, recipe: str) -> list[str]:
        wrapped = self.network
        options = {"head": "se"} if "deeplab" in wrapped else {}
        if recipe == "hrda":
            detail = {"detail": self.size[0] // 2, "divisor": 16}
            options = {**detail, "options": options}
            options |= {"attention_width": 32, "attention_norm": "group"} if wrapped == "small" else {}
            wrapped = f"hrda:{wrapped}"
        return [f"model={json.dumps({'name': wrapped, 'weights': 'none', 'options': options})}", *NOW.get(recipe, ())]

    def training(self, recipe: str, without: str | None = None) -> Training:
        return Training(recipe, self.scale, self.overrides(recipe), self.size, self.batch, without)


CASES = {
    "lite0": Case("efficientnet_lite0", (192, 192), 4, "small", 8),  # scale small's own network, crop and batch
    "deeplab": Case("deeplabv2_resnet101", (256, 512), 1, "paper", 2),
    "tiny": Case("small", (64, 96), 2, "small", 1),
}


def is_usual(one: Pass, before: list[Pass]) -> bool:
    """Of the student's first two passes, the teacher's first, or a discriminator's."""
    same = sum(other.name == one.name for other in before)
    return isinstance(one.network, Discriminator) or same < {"model": 2, "teacher.network": 1}.get(one.name, 0)


def measure(case: Case, recipe: str, repeats: int) -> dict[str, Any]:
    before = resident_mib()
    training = case.training(recipe)
    training.step()
    peak = peak_mib() - before
    with recorded(training.stage) as passes:
        training.step()
    usual = [one for place, one in enumerate(passes) if is_usual(one, passes[:place])]
    works = {"step": training.step, "bare": replay(training.trained, passes)}
    if len(usual) < len(passes):
        works["usual"] = replay(training.trained, usual)
    if recipe in SHARE_OF:
        works["without"] = case.training(recipe, SHARE_OF[recipe]).step
    milliseconds = {name: 1e3 * median(seconds) for name, seconds in take_turns(works, repeats).items()}
    return {**milliseconds, "peak": peak, "passes": len(passes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append", help="by default all but tiny")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--repeats", type=int, help="timed turns; by default 8 for lite0, 2 for DeepLabV2")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    names = options.case or [name for name in CASES if name != "tiny"]
    if options.one:
        print(json.dumps(measure(CASES[names[0]], options.recipes, options.repeats)))
        return
    print(f"{machine()}; 19 classes, float32, medians\n")
    print("| network | recipe | step ms | passes | bare ms | step / bare | step / usual three | peak MiB | refiner |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---|")
    for name in names:
        case = CASES[name]
        for recipe in options.recipes.split(","):
            repeats = str(options.repeats or case.repeats)
            own = ["--one", f"--case={name}", f"--recipes={recipe}", "--repeats", repeats]
            command = [sys.executable, __file__, *own, f"--threads={options.threads}"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            row = json.loads(done.stdout.splitlines()[-1])
            share = f"{SHARE_OF[recipe]} {100 * (1 - row['without'] / row['step']):.0f} %" if "without" in row else ""
            usual = row["step"] / row.get("usual", row["bare"])
            print(
                f"| {case.network} {case.size[0]} x {case.size[1]}, batch {case.batch} | {recipe} | {row['step']:.0f} "
                f"| {row['passes']} | {row['bare']:.0f} | {row['step'] / row['bare']:.2f} | {usual:.2f} "
                f"| {row['peak']:,.0f} | {share} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
