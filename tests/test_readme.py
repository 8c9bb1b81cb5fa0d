"""The commands of the README's first page for who has a model already, run as they stand there, on small made files."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from models.foreign.tiny import CLASSES, saved
from runs import command

pytest.importorskip("transformers")
TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
LINES = re.findall(r"^    (segrefinery adapt .*--from my/segformer .*)$", TEXT, flags=re.M)
SMALL = (
    "data.short_side=32", "data.crop=[32, 48]", "data.batch=2", "data.workers=0", "target_data.short_side=32",
    "target_data.crop=[32, 48]", "stages.adapt.steps=2", "training.precision=32-true",
)  # fmt: skip
"""What makes a run of them quick."""


def images(folder, count, seed, masks=False):
    """Pictures, and with ``masks`` a data set: a mask for each, and the description of both."""
    random = torch.Generator().manual_seed(seed)
    for part in ("images", "masks") if masks else (".",):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture = torch.randint(0, 256, (32, 64, 3), dtype=torch.uint8, generator=random)
        Image.fromarray(picture.numpy()).save(folder / ("images" if masks else ".") / f"{number}.png")
        if masks:
            mask = torch.randint(0, 3, (32, 64), dtype=torch.uint8, generator=random)
            Image.fromarray(mask.numpy()).save(folder / "masks" / f"{number}.png")
    if masks:
        described = {"classes": list(CLASSES), "images": "images/{name}.png", "masks": "masks/{name}.png"}
        (folder / "dataset.yaml").write_text(yaml.safe_dump(described))


def test_there_are_three():
    """A model and images; with its source; with twenty labels."""
    assert len(LINES) == 3
    assert ["--source" in line for line in LINES] == [False, True, True]
    assert ["--labels" in line for line in LINES] == [False, False, True]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split()[-1])
@pytest.mark.filterwarnings("ignore")
def test_a_line_runs_as_it_stands(tmp_path, monkeypatch, capsys, line):
    monkeypatch.chdir(tmp_path)
    saved(Path("my/segformer"), "segformer", {"image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    images(Path("my/camera"), 4, 0)
    images(Path("my/source"), 4, 1, masks=True)
    images(Path("my/labelled"), 4, 2, masks=True)
    capsys.readouterr()  # what the library said while it saved
    words = shlex.split(line)
    code, said, error = command(monkeypatch, capsys, *words[1:], *(f"--set={change}" for change in SMALL))
    assert (code, error) == (0, "")
    assert "verdict: " in said
    assert (Path(words[-1]) / "report.html").exists()
