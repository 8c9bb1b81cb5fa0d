"""How many bands images have, and what a recipe needs to read others than red, green and blue."""

from __future__ import annotations

from collections.abc import Callable

import torch

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.pixels import Normalization
from segrefinery.data.datasets import ImageDataset, bands_of
from segrefinery.models.trained import StartModel
from segrefinery.recipe import Recipe

MEASURED = 64
"""Images, evenly spaced, by which the statistics of bands are measured."""


def in_bands(recipe: Recipe, images: ImageDataset, start: StartModel | None, say: Callable[[str], object]) -> Recipe:
    """The recipe whose networks read as many bands as the images have.

    Bands other than red, green and blue have no published mean and deviation: where the recipe states none and no
    trained model brings its own, they are measured, and said.

    Args:
        images: the source, or the target where a trained model is adapted without one.
        start: the trained model.

    Raises:
        SegRefineryError: the recipe or the model says another number of bands.
    """
    bands = bands_of(images)
    given = recipe.model.bands if start is None else start.network.bands
    if given != bands and (start is not None or given != 3):
        raise SegRefineryError(
            f"{images.reference}: its images have {bands} bands, and {start.origin if start else 'model.bands'} reads "
            f"{given}; name as many bands in its dataset.yaml"
        )
    for field, data in (("data", recipe.data), ("target_data", recipe.target_data)):
        if data.pixel_mean is not None and len(data.pixel_mean) != bands:
            raise SegRefineryError(
                f"{field}.pixel_mean: has {len(data.pixel_mean)} numbers, and {images.reference} has {bands} bands"
            )
    if bands == 3:
        return recipe
    changes: dict[str, object] = {"model": recipe.model.model_copy(update={"bands": bands})}
    changes["stages"] = {
        name: stage.model_copy(update={"model": stage.model and stage.model.model_copy(update={"bands": bands})})
        for name, stage in recipe.stages.items()
    }
    if recipe.data.pixel_mean is None and (start is None or start.normalization is None):
        statistics = band_statistics(images)
        rounded = [", ".join(f"{value:.3f}" for value in values) for values in statistics]
        say(f"bands: {bands}, of mean {rounded[0]} and deviation {rounded[1]}, as measured on {images.reference}")
        for field, data in (("data", recipe.data), ("target_data", recipe.target_data)):
            changes[field] = data.model_copy(update={"pixel_mean": statistics.mean, "pixel_std": statistics.std})
    return recipe.model_copy(update=changes)


def band_statistics(images: ImageDataset) -> Normalization:
    """Mean and standard deviation of each band in [0, 1], over up to 64 images."""
    count = min(MEASURED, len(images))
    total, squares, pixels = torch.zeros(1), torch.zeros(1), 0
    for number in range(count):
        values = images.image(number * len(images) // count).flatten(1).double() / 255
        total, squares = total + values.sum(dim=1), squares + values.square().sum(dim=1)
        pixels += values.shape[1]
    mean = total / pixels
    # A band that is the same everywhere says nothing; it is not to become infinite.
    std = (squares / pixels - mean.square()).clamp(min=0).sqrt().clamp(min=1 / 255)
    return Normalization(tuple(mean.tolist()), tuple(std.tolist()))
