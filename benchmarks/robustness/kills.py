"""Kill commands at many moments, run them again, and compare all that they leave with what an undisturbed one leaves.

    python benchmarks/robustness/kills.py --count 100 --folder /tmp/kills
    python benchmarks/robustness/kills.py --count 27 --folder /tmp/kills_all --verbs adapt --recipes all

Commands take turns: `adapt` with each recipe, tiny and on scenes, and the other verbs on a finished run. Each dies by
SIGKILL, at a random moment, or at one of its operations on files, where half of what it was writing may be there; it
is then given again, now and then to die a second time. In the end all names and bytes must be those of an undisturbed
command, without a half-written file; of `evaluate`, what it says. Left out are seconds, the times in an archive,
TensorBoard's files and the lock. The record in the folder makes it resumable; the sources must stay as they are
meanwhile. Prints Markdown; exits with 1 where something differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import random
import re
import shutil
import signal
import sys
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.forked import Outcome, end, lines, made, remaining, run, start
from lib.machine import machine
from robustness.mutations import data_set
from runs import DAY, NIGHT, TEST, TINY, narrow
from segrefinery.evaluation import strips
from segrefinery.interchange import large
from segrefinery.recipe import recipe_names
from segrefinery.verbs import export, report  # noqa: F401  here before any command begins

RECIPES = ("self_training", "uncerda", "cpsl", "pixel_attention", "prn", "ir2f")
VERBS = ("adapt", "predict", "pseudo-label", "evaluate", "audit", "report", "export")
STEPS = defaultdict(lambda: 6, supervised=4)
LIMIT = 600.0
LEFT_OUT = re.compile(r"(^|/)(\.lock$|tensorboard/)")
SECONDS = re.compile(rb'[\d.]+ s a step|"seconds_per_step": [\d.e-]+')
ENDED = ("holds an audit already", "is there already")
"""What a command says that had ended its work when it was killed."""


@dataclass
class Case:
    """A command on a folder, and what it leaves undisturbed.

    Attributes:
        arguments: of the folder to start from and that of the results. copied: results lie in a copy of the run.
        files: digests by name. said: all that it said. operations: on files. seconds: until its end.
    """

    name: str
    arguments: Callable[[Path, Path], list[object]]
    copied: bool = False
    files: dict[str, str] = field(default_factory=dict)
    said: str = ""
    operations: int = 0
    seconds: float = 0.0


def adaptation(recipe: str) -> Case:
    options = [f"--recipe={recipe}", "--scale=small", f"--source={DAY}", f"--target={NIGHT}", f"--eval={TEST}"]
    options += [f"--set={change}" for change in (*TINY, *narrow(recipe, STEPS))]
    options += [f"--oracle={TEST}"] if recipe == "oracle" else []
    return Case(f"adapt {recipe}", lambda base, out: ["adapt", *options, "--resume", "-o", out])


def writing(verb: str, name: str, *more: str) -> Case:
    return Case(name, lambda base, out: [verb, base / "run", base / "data/images", "-o", out, *more])


def cases(verbs: list[str], recipes: list[str]) -> list[Case]:
    """The commands to kill: of each verb in turn."""
    every = [adaptation(recipe) for recipe in recipes]
    every += [writing("pseudo-label", f"pseudo-label {form}", "--format", form) for form in FORMS]
    every += [writing("predict", "predict"), writing("predict", "predict large", "--size", "native")]
    every += [
        Case("evaluate", lambda base, out: ["evaluate", base / "run", "--on", f"folder:{base / 'data'}@all"]),
        writing("audit", "audit", "-n", "2"),
        Case("audit scored", lambda base, out: [
            "audit", out, base / "data/images", "--masks", base / "masks"], copied=True),
        Case("report", lambda base, out: ["report", out], copied=True),
        Case("export", lambda base, out: ["export", base / "run", "-o", out / "model.pt2", "--format", "torch"]),
    ]  # fmt: skip
    turns = zip_longest(*([case for case in every if case.name.split()[0] == verb] for verb in verbs))
    return [case for turn in turns for case in turn if case]


FORMS = ("png", "coco", "yolo", "parquet")


def prepare(base: Path) -> None:
    """What commands start from: a run with an audit, its masks that came back, and pictures with a data set."""
    made(base / "run")
    if (base / "masks").exists():
        return
    shutil.rmtree(base / "data", ignore_errors=True)
    shutil.rmtree(base / "run/audit", ignore_errors=True)
    data_set(base / "data")
    if (outcome := run(["audit", base / "run", base / "data/images", "-n", "2"])).code:
        raise SystemExit(outcome.said)
    shutil.copytree(base / "run/audit/masks", base / "corrected")
    for file in (base / "corrected").iterdir():
        mask = np.array(Image.open(file))
        mask[:32], mask[32:] = 0, 1
        Image.fromarray(mask).save(file)
    (base / "corrected").rename(base / "masks")


# -- one command -------------------------------------------------------------------------------------------------------


class Trial:
    """A folder for one command at a time, with a cache of its own."""

    def __init__(self, base: Path, case: Case) -> None:
        self.case, self.folder, self.out = case, base / "trial", base / "trial/out"
        self.arguments = case.arguments(base, self.out)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        if case.copied:
            shutil.copytree(base / "run", self.out)

    def before(self, counted: mmap.mmap, dies_at: int = 0, torn: bool = False) -> Callable[[], None]:
        """What a command does first: it counts its operations on files here, and dies at one of them, if so with
        half of the file that it was about to move to its place."""

        def watch() -> None:
            command, here = os.getpid(), str(self.folder)

            def happened(event: str, details: tuple) -> None:
                if event not in OPERATIONS or not str(details[0]).startswith(here):
                    return
                if event == "open" and not (details[2] or 0) & (os.O_WRONLY | os.O_RDWR):
                    return
                number = int.from_bytes(counted[:8], "little") + 1
                counted[:8] = number.to_bytes(8, "little")
                if number == dies_at:
                    if torn and event == "os.rename" and os.path.isfile(details[0]):
                        os.truncate(details[0], os.path.getsize(details[0]) // 2)
                    os.kill(command, signal.SIGKILL)

            os.environ["SEGREFINERY_CACHE"] = str(self.folder / "cache")
            if "large" in self.case.name:
                strips.LARGE, large.PART = 1024, 512  # as if these pictures were large
            sys.addaudithook(happened)

        return watch

    def run(self) -> tuple[Outcome, int]:
        """The command to its end, and its operations on files."""
        counted = mmap.mmap(-1, 8)
        return run(self.arguments, self.before(counted), LIMIT), int.from_bytes(counted[:8], "little")

    def kill(self, dice: random.Random) -> str | None:
        """Begin the command and kill it -> at what moment, or None if it had ended by then."""
        counted, case = mmap.mmap(-1, 8), self.case
        if dice.random() < 0.5 and case.operations:
            torn = dice.random() < 0.5
            outcome = run(self.arguments, self.before(counted, dice.randint(1, case.operations), torn), LIMIT)
            return "at a file" if outcome.code == -signal.SIGKILL else None
        child = start(self.arguments, self.before(counted))
        time.sleep(dice.uniform(0, case.seconds))
        os.kill(child.number, signal.SIGKILL)
        return "at any time" if end(child, LIMIT).code == -signal.SIGKILL else None

    def files(self) -> dict[str, str]:
        """A digest of all that lies there, by name."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            name = str(path.relative_to(self.folder))
            if not LEFT_OUT.search(name):
                found[name] = hashlib.blake2b(content(path), digest_size=8).hexdigest() if path.is_file() else "folder"
        return found


OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")


def content(path: Path) -> bytes:
    """What must be the same in a file: of an archive all but its times."""
    if path.suffix in (".zip", ".pt2"):
        with zipfile.ZipFile(path) as archive:
            return json.dumps([(entry.filename, entry.CRC) for entry in archive.infolist()]).encode()
    return SECONDS.sub(b"", path.read_bytes())


def undisturbed(base: Path, case: Case) -> None:
    """What a command leaves by itself; not known before."""
    trial, began = Trial(base, case), time.monotonic()
    outcome, case.operations = trial.run()
    if outcome.code:
        raise SystemExit(f"{case.name}: undisturbed it ends with {outcome.code}:\n{outcome.said}")
    case.seconds, case.files, case.said = time.monotonic() - began, trial.files(), outcome.said


def fault_of(case: Case, trial: Trial, outcome: Outcome) -> str | None:
    """What is not as it is undisturbed."""
    if outcome.code and not any(words in outcome.said for words in ENDED):
        return f"ends with {outcome.code}: {outcome.said[-500:]}"
    if case.name == "evaluate" and outcome.said != case.said:
        return f"says {outcome.said[-500:]}"
    now = trial.files()
    differing = sorted(name for name in now.keys() | case.files.keys() if now.get(name) != case.files.get(name))
    return f"differs: {', '.join(differing)}" if differing else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="commands that are killed")
    parser.add_argument("--folder", type=Path, required=True, help="for the record and the results")
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=list(VERBS))
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), help="of adapt; or all")
    options = parser.parse_args()
    recipes = list(recipe_names()) if options.recipes == ["all"] else options.recipes
    every, record = cases(options.verbs, recipes), options.folder / "kills.jsonl"
    base = options.folder.resolve()
    base.mkdir(parents=True, exist_ok=True)
    prepare(base)
    for number in remaining(record, options.count):
        dice, case = random.Random(number), every[number % len(every)]
        if not case.files:
            undisturbed(base, case)
        trial = Trial(base, case)
        kills = [trial.kill(dice) for _ in range(dice.choice((1, 1, 2)))]
        fault = fault_of(case, trial, trial.run()[0])
        moments = [moment for moment in kills if moment]
        with open(record, "a") as file:
            file.write(json.dumps({"number": number, "kind": case.name, "kills": moments, "fault": fault}) + "\n")
    print(f"{machine()}; {options.count} commands\n")
    raise SystemExit(not table(record))


def table(record: Path) -> bool:
    """Print a line a command -> whether none left anything else."""
    found = lines(record)
    print("| command | times | kills at any time | kills at a file | left something else |\n|---|---|---|---|---|")
    for kind in sorted({line["kind"] for line in found}):
        alike = [line for line in found if line["kind"] == kind]
        kills = [moment for line in alike for moment in line["kills"]]
        faults = sum(line["fault"] is not None for line in alike)
        print(f"| {kind} | {len(alike)} | {kills.count('at any time')} | {kills.count('at a file')} | {faults} |")
    return not any(line["fault"] for line in found)


if __name__ == "__main__":
    main()
