"""At which size images are read, and what a user should know of it: the zoom against training, windows that do nothing,
crops that an image cannot fill."""

from __future__ import annotations

import warnings
from dataclasses import replace

from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.datasets import ImageDataset, notes_of
from segrefinery.data.transforms import DataSettings, evaluation_size, read_size
from segrefinery.engine.model import Model

FAR = 2.0
"""Factor of zoom against training, either way, from which objects look unlike those that were learned."""
MOSTLY = 0.5
"""Share of a training crop that an image should fill."""


def at_size(model: Model, size: str | int) -> Model:
    """The model that reads images at another size.

    Args:
        size: ``trained``, as it was trained; ``native``, each image's own; or the pixels of the shorter side.

    Raises:
        SegRefineryError: anything else.
    """
    if size == "trained":
        return model
    if size != "native" and not (str(size).isdecimal() and int(size) > 0):
        raise SegRefineryError(f"--size {size}: write native, trained, or the pixels of the shorter side")
    side = None if size == "native" else int(size)
    data = model.data.model_copy(update={"short_side": side, "evaluation_short_side": side})
    return replace(model, data=data, trained=model.trained or model.data)


def zoom_of(model: Model, size: tuple[int, int]) -> float | None:
    """How large the pixels of an image of ``size`` are against those of training's images, as the network sees both;
    None where the model does not say how large these were."""
    trained = model.image_size
    if trained is None:
        return None
    then = evaluation_size(trained, model.trained or model.data)[0] / trained[0]
    return evaluation_size(size, model.data)[0] / size[0] / then


def reading_of(model: Model, size: tuple[int, int]) -> str:
    """One line: at which size an image is read, and the zoom against training."""
    size_read, zoom = evaluation_size(size, model.data), zoom_of(model, size)
    against = "the size of training's images is not known" if zoom is None else f"{zoom:.2g} times the zoom of training"
    return f"{size[1]} x {size[0]} pixels are read at {size_read[1]} x {size_read[0]}: {against}"


def inert_window(window: tuple[int, int] | None, data: DataSettings, size: tuple[int, int]) -> list[str]:
    """A sentence where a window is no smaller than an image of ``size`` as it is read, and so does nothing."""
    height, width = evaluation_size(size, data)
    if window is None or height > window[0] or width > window[1]:
        return []
    shown = f"an image of {size[1]} x {size[0]}, which is read at {width} x {height} whole"
    return [f"a window of {window[0]}x{window[1]} does nothing for {shown}; name a smaller one"]


def odd_training(data: DataSettings, size: tuple[int, int]) -> list[str]:
    """A sentence where training enlarges an image of ``size`` far, and where most of its crop is padding for the image
    is too small to fill it."""
    height, width = read_size(size, data)
    shown, remarks = f"an image of {size[1]} x {size[0]}", []
    if height / size[0] > FAR:
        remarks.append(
            f"{shown} is enlarged {height / size[0]:.2g} times, to {width} x {height}, which shows no more of it; set "
            "a smaller data.short_side and data.crop, and it trains faster"
        )
    typical = [side * sum(data.scale) / 2 for side in (height, width)]
    filled = min(1.0, typical[0] / data.crop[0]) * min(1.0, typical[1] / data.crop[1])
    if filled < MOSTLY:
        remarks.append(
            f"{100 * (1 - filled):.0f} % of a training crop of {data.crop[0]} x {data.crop[1]} is padding with "
            f"{shown}, which is read at {width} x {height}; set a smaller data.crop, or data.short_side to enlarge the "
            "images"
        )
    return remarks


def warn_of_reading(model: Model, dataset: ImageDataset, image: Tensor | tuple[int, int]) -> None:
    """Warn of what is left out of ``dataset``, and of what is odd in how ``model`` reads its image, 3 x H x W or its
    height and width."""
    size = image if isinstance(image, tuple) else (image.shape[-2], image.shape[-1])
    size_read, zoom = evaluation_size(size, model.data), zoom_of(model, size)
    remarks = [*notes_of(dataset)]
    shown = f"an image of {size[1]} x {size[0]}, which is read at {size_read[1]} x {size_read[0]}"
    if zoom is not None and not 1 / FAR < zoom < FAR and model.image_size is not None:
        trained = f"{model.image_size[1]} x {model.image_size[0]}"
        remedy = "read it at its own size (--size native)" if size_read != size else "cut it into tiles of that size"
        if model.trained is not None:
            remedy = "all is well, else leave --size away"
        remarks.append(
            f"{shown}: its pixels are {zoom:.2g} times as large as those of training's images ({trained}); if objects "
            f"have as many pixels here as there, {remedy}"
        )
    remarks += inert_window(model.window, model.data, size)
    for remark in remarks:
        warnings.warn(f"{dataset.reference}: {remark}", stacklevel=3)
