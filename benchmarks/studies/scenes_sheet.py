"""A contact sheet of the scenes: one world a row, its four looks and its mask.

python benchmarks/studies/scenes_sheet.py docs/images/scenes.jpg [--rows 3] [--height 128] [--zoom 1] [--seed 0]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import write_jpeg, write_png

from segrefinery.data.scenes import SceneDataset
from segrefinery.data.scenes.classes import COLORS
from segrefinery.data.scenes.looks import LOOKS

GAP = 4  # white pixels between the pictures


def sheet(rows: int, first: int, height: int, zoom: int, seed: int) -> Tensor:
    """uint8, 3 x H x W."""
    palette = torch.tensor(COLORS, dtype=torch.uint8)
    sets = [SceneDataset(look, "test", first + rows, (height, 2 * height), seed, paired=True) for look in LOOKS]
    lines = []
    for index in range(first, first + rows):
        pictures = [scenes.image(index) for scenes in sets]
        pictures.append(palette[sets[0].label(index)].permute(2, 0, 1))
        framed = [torch.nn.functional.pad(p, (GAP, 0, GAP, 0), value=255) for p in pictures]
        lines.append(torch.cat(framed, 2))
    whole = torch.nn.functional.pad(torch.cat(lines, 1), (0, GAP, 0, GAP), value=255)
    return whole.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--zoom", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    picture = sheet(arguments.rows, arguments.first, arguments.height, arguments.zoom, arguments.seed)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    if arguments.output.suffix == ".png":
        write_png(picture, str(arguments.output))
    else:
        write_jpeg(picture, str(arguments.output), quality=80)
    print(
        f"{arguments.output}: {picture.shape[2]} x {picture.shape[1]}, {arguments.output.stat().st_size / 1024:.0f} KB"
    )


if __name__ == "__main__":
    main()
