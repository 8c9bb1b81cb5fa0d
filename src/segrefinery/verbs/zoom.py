"""What a user should know of how a model reads images: how large it sees them against training, and inert windows."""

from __future__ import annotations

import warnings

from torch import Tensor

from segrefinery.data.datasets import ImageDataset, notes_of
from segrefinery.data.transforms import evaluation_size
from segrefinery.engine.model import Model

FAR = 2.0
"""Factor of zoom against training, either way, from which objects look unlike those that were learned."""


def warn_of_reading(model: Model, dataset: ImageDataset, image: Tensor) -> None:
    """Warn of what is left out of ``dataset``, and of what is odd in how ``model`` reads its image, 3 x H x W."""
    size = (image.shape[-2], image.shape[-1])
    seen = evaluation_size(size, model.data)
    remarks = [*notes_of(dataset)]
    shown = f"an image of {size[1]} x {size[0]}, which is read at {seen[1]} x {seen[0]}"
    if model.image_size is not None:
        trained = model.image_size
        zoom = seen[0] / size[0] / (evaluation_size(trained, model.data)[0] / trained[0])
        if not 1 / FAR < zoom < FAR:
            remarks.append(
                f"{shown}: its pixels are {zoom:.2g} times as large as those of training's images ({trained[1]} x "
                f"{trained[0]}); if objects have as many pixels here as there, cut it into tiles of that size"
            )
    if model.window is not None and seen[0] <= model.window[0] and seen[1] <= model.window[1]:
        remarks.append(f"a window of {model.window[0]}x{model.window[1]} does nothing for {shown}; name a smaller one")
    for remark in remarks:
        warnings.warn(f"{dataset.reference}: {remark}", stacklevel=3)
