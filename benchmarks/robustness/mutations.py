"""Damage images, masks, recipes, descriptions of data sets and files of a run, and see what commands make of them.

    python benchmarks/robustness/mutations.py --count 1000 --folder /tmp/mutations

Each must be done, or be one line and exit code 2: no signal, no traceback, no hang over 20 s, no memory over 2 GiB. The
record in the folder makes it resumable; with `--first` slices run side by side, each in a folder of its own, and their
records, joined in one folder, are one. The sources must stay as they are meanwhile. Prints Markdown; exits with 1 where
there is a fault, which the record shows.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.forked import keep, made, remaining, run, table
from lib.machine import machine
from segrefinery.recipe import dump_recipe, load_recipe

KINDS = ("image", "mask", "recipe", "data set", "run folder")
WORDS = (
    b"null",
    b"-1",
    b"1e29",
    b"[]",
    b"{}",
    b"true",
    b"&a [*a]",
    b"nan",
    b"../..",
    b"\xff",
    b"\x00",
    b"\x1b[2J",
    b'"',
)


def damaged(content: bytes, dice: random.Random) -> bytes:
    """One to three changes: bits flipped, a stretch cut, zeroed or doubled, the end lost, or a word put in."""
    data = bytearray(content)
    for _ in range(dice.randint(1, 3)):
        place, length = dice.randrange(len(data) + 1), dice.choice((1, 4, 64, 1024))
        what = dice.randrange(6)
        if what == 0 and data:
            data[min(place, len(data) - 1)] ^= 1 << dice.randrange(8)
        elif what == 1:
            del data[place : place + length]
        elif what == 2:
            data[place : place + length] = bytes(len(data[place : place + length]))
        elif what == 3:
            data[place:place] = data[place : place + length]
        elif what == 4:
            del data[place:]
        else:
            data[place : place + dice.randrange(8)] = dice.choice(WORDS)
    return bytes(data)


def data_set(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for number, suffix in enumerate(("png", "jpg", "webp")):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / "images" / f"{number}.{suffix}")
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / "images" / "0.png")
    Image.fromarray(rng.integers(0, 2, (64, 64), dtype=np.uint8)).save(root / "masks" / "0.png")
    (root / "dataset.yaml").write_text(
        "images: images/{name}.png\nmasks: masks/{name}.png\nclasses: {0: road, 1: car, 2: null}\nignore: [250]\n"
        "splits: {all: {file: all.txt}}\nbits: 16\nexif: follow\n"
    )
    (root / "all.txt").write_text("0\n")
    return root


def files_of(kind: str, base: Path) -> list[Path]:
    if kind == "image":
        return sorted((base / "data" / "images").iterdir())
    if kind == "mask":
        return sorted((base / "data" / "masks").iterdir())
    if kind == "recipe":
        return [base / "recipe.yaml"]
    if kind == "data set":
        return [base / "data" / "dataset.yaml", base / "data" / "all.txt"]
    wanted = (".json", ".jsonl", ".npz", ".yaml", ".pt", ".safetensors", ".png")
    return sorted(path for path in (base / "run").rglob("*") if path.suffix in wanted)


def command(kind: str, root: Path, changed: Path, dice: random.Random) -> list[object]:
    run, on = root / "run", f"folder:{root / 'data'}@all"
    if kind == "image":
        return ["predict", run, changed, "-o", root / "out"]
    if kind == "recipe":
        return ["recipes", changed]
    if kind == "run folder":
        verbs = (["report", run], ["evaluate", run, "--on", on], ["compare", run, "-n", 2])
        return list(dice.choice(verbs))
    return ["evaluate", run, "--on", on]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first one; each is drawn by its number")
    parser.add_argument("--folder", type=Path, required=True, help="for the record and what is damaged")
    options = parser.parse_args()
    base, trial = options.folder / "base", options.folder / "trial"
    base.mkdir(parents=True, exist_ok=True)
    made(base / "run")
    data_set(base / "data")
    (base / "recipe.yaml").write_text(dump_recipe(load_recipe("self_training", "small")))
    record = options.folder / "mutations.jsonl"
    for number in remaining(record, options.first + options.count, options.first):
        dice, kind = random.Random(number), KINDS[number % len(KINDS)]
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(base, trial)
        victim = trial / dice.choice(files_of(kind, base)).relative_to(base)
        victim.write_bytes(damaged(victim.read_bytes(), dice))
        keep(record, number, kind, run(command(kind, trial, victim, dice)))
    print(f"{machine()}; {options.count} mutations\n")
    raise SystemExit(not table(record))


if __name__ == "__main__":
    main()
