"""What several commands take, and how it is explained."""

from __future__ import annotations

from typing import Annotated

import typer

SourceHelp = r"Labelled images: NAME:PATH\[@SPLIT], for instance gta5:/data/gta5 or folder:my.yaml@train."
TargetHelp = r"Images to adapt to: a folder, a glob, or NAME:PATH\[@SPLIT]. Labels they may have are never read."
SeveralHelp = "Repeat it for several data sets, with shares of the draws if you like: '2 of NAME:PATH'."
LabelsHelp = "Labelled images of the target domain that teach. None of them may be in the evaluation set."
StartHelp = (
    "A trained model to adapt, with or without --source: a run or model folder, hf:ORG/REPO, a folder of transformers "
    "or smp, torchvision:NAME, or a checkpoint file with --set model.name=NETWORK."
)
EvalHelp = "Labelled images of the target domain, for scores only."

Window = Annotated[
    str | None, typer.Option(metavar="HxW", help="Look through overlapping windows of the resized image: less memory.")
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU if there is one.")]
Engine = Annotated[str, typer.Option(help="local (under torchrun, each process its share), or ray.")]
Workers = Annotated[int, typer.Option(min=1, help="Of --engine ray.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="a.b.c=value, any setting of the recipe.")]
