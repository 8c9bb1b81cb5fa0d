"""Label images for other tools to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from segrefinery.core.files import write_json
from segrefinery.data.datasets import UnlabeledView, open_dataset
from segrefinery.data.label_files import write_label_set
from segrefinery.engine.model import Model, load
from segrefinery.labels import IGNORE
from segrefinery.verbs.predict import refuse_inside
from segrefinery.verbs.zoom import warn_of_reading


def pseudo_label(
    run: str | Path | Model,
    target: str | Path,
    output: str | Path,
    threshold: float = 0.0,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Label images for other tools to train on -> how many were written.

    For each image ``STEM.png`` (class ids with their colours, 255 ignored) and ``STEM.weight.png`` (confidence as
    0..255), at the image's own size, and once ``classes.json``. Images are read and written one by one.

    Args:
        threshold: pixels whose confidence is below it are ignored and weigh 0.
    """
    model = run if isinstance(run, Model) else load(run)
    dataset, folder = UnlabeledView(open_dataset(str(target))), Path(output)

    refuse_inside(folder, target)
    warn_of_reading(model, dataset, dataset.image(0))

    def labelled() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for index in range(len(dataset)):
            confidence, label = model.predict(dataset.image(index)).max(dim=0)
            ignored = confidence < threshold
            label, weight = label.masked_fill(ignored, IGNORE), confidence.masked_fill(ignored, 0.0)
            yield label[None], weight[None], torch.tensor([index])
            progress(index + 1, len(dataset))

    write_label_set(folder, labelled(), [dataset.name(index) for index in range(len(dataset))], model.space)
    colored = enumerate(zip(model.space.classes, model.space.colors, strict=True))
    write_json(
        folder / "classes.json", [{"id": id, "name": name, "color": list(color)} for id, (name, color) in colored]
    )
    return len(dataset)
