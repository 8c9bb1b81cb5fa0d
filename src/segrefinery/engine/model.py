"""Trained models, saved and loaded: a network, its classes, and how it reads images."""

from __future__ import annotations

import copy
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from segrefinery.core.arguments import checked
from segrefinery.core.errors import SegRefineryError
from segrefinery.core.settings import Settings, two_sides
from segrefinery.data.datasets import ImageDataset, bands_of
from segrefinery.data.transforms import DataSettings
from segrefinery.engine.events import RunEvents, StageEnd
from segrefinery.engine.folders import model_folder, remedied_by_its_run
from segrefinery.evaluation.inference import predict_probs
from segrefinery.labels import LabelSpace
from segrefinery.models import Segmenter, build_model, load_weights, normalization_of
from segrefinery.models.segmenter import bands_read
from segrefinery.models.weights import CONFIG, TENSORS, NetworkConfig, read_config, save_network
from segrefinery.refine import RefinerChain


class Origin(Settings):
    """What a model was trained on."""

    start: str | None = None
    """The trained model that it started from."""
    source: str | None = None
    """The labelled images."""
    target: str | None = None
    """The images it was adapted to."""
    labels: str | None = None
    """The labelled target images that taught."""
    stage: str = ""
    """The stage that left it."""
    seed: int = 0
    """Of everything random."""


class ModelConfig(NetworkConfig):
    """The content of ``config.json`` of a trained model: a network, and all it takes to read images with it."""

    model_config = ConfigDict(extra="forbid")

    data: DataSettings
    """How images are resized and normalised, with the pixel statistics that the network was trained with."""
    window: tuple[int, int] | None = None
    """Height and width of overlapping windows at prediction, or null for whole images."""
    merge: dict[str, str | None] | None = None
    """How classes were renamed before training."""
    image_size: tuple[int, int] | None = None
    """Height and width of the first target image of its training, where that is known."""
    refine: RefinerChain = Field(default_factory=dict)
    """The refiners that are part of the predictor."""
    recipe: str = ""
    """Name of the recipe it was trained by."""
    trained_on: Origin = Origin()
    """What it was trained on."""


@dataclass
class Model:
    """A trained network with all it needs to read an image and name what it sees.

    Attributes:
        network: in eval mode; ``segmenter`` is the plain network inside it, where refiners act at inference too.
        space: its classes.
        data: how images are resized and normalised.
        window: height and width of sliding windows, or None for whole images.
        merge: how classes were renamed before training; data sets it is evaluated on are renamed alike.
        image_size: height and width of the first target image of its training, or None where that is not known.
        trained: how images were resized in training, where ``data`` says otherwise since; else None.
        folder: where it was loaded from; None for one that was not.
    """

    network: nn.Module
    segmenter: Segmenter
    space: LabelSpace
    data: DataSettings
    window: tuple[int, int] | None = None
    merge: dict[str, str | None] | None = None
    image_size: tuple[int, int] | None = None
    trained: DataSettings | None = None
    folder: Path | None = None

    def predict(self, image: Tensor | np.ndarray | Image.Image, size: tuple[int, int] | None = None) -> Tensor:
        """C x H x W class probabilities, at the image's own size or at ``size``, in the processor's memory.

        Args:
            image: uint8 tensor 3 x H x W, uint8 array H x W x 3, or a PIL image; RGB.

        Raises:
            ValueError: anything else, for instance values between 0 and 1; or a size that is no height and width.
        """
        if size is not None and (len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size)):
            raise ValueError(f"size: height and width in pixels expected, both above 0, got {size!r}")
        return predict_probs(self.network, as_image(image, self.bands), self.data, self.window, size).cpu()

    def digest(self) -> str:
        """Of all that its answers depend on: its weights, its classes, and how it reads images."""
        digest = hashlib.blake2b(f"{self.space} {self.data} {self.window}".encode(), digest_size=16)
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    @property
    def bands(self) -> int:
        """How many bands the images have that it reads."""
        return bands_read(self.segmenter)

    def refuse_other_bands(self, dataset: ImageDataset) -> None:
        """Refuse images of other bands than the model's.

        Raises:
            SegRefineryError: names the data set, and what to write.
        """
        if bands_of(dataset) != self.bands:
            raise SegRefineryError(
                f"{dataset.reference}: its images have {bands_of(dataset)} bands and the model reads {self.bands}; "
                "name as many in its dataset.yaml, for instance bands: [3, 2, 1, 4]"
            )


def as_image(image: Any, bands: int = 3) -> Tensor:
    """An image as a uint8 tensor 3 x H x W, or of so many ``bands``.

    Raises:
        ValueError: it is none, or has no pixel.
    """
    given = f"{getattr(image, 'dtype', type(image).__name__)} {tuple(getattr(image, 'shape', ()))}"
    if isinstance(image, Image.Image):
        image = image.convert("RGB")
    if isinstance(image, Image.Image | np.ndarray):
        from torchvision.transforms.v2.functional import to_image  # here, for it takes seconds to import

        image = to_image(image).as_subclass(Tensor)
    plain = isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3
    if plain and image.shape[0] == bands and image.numel():
        return image
    of = "RGB" if bands == 3 else f"{bands} bands"
    raise ValueError(
        f"image: uint8 {bands} x H x W tensor, H x W x {bands} array or PIL image in {of} expected, got {given}"
    )


def default_device() -> torch.device:
    """A CUDA GPU where there is one, else the processor. Not Apple's GPU, which has no float64."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", local_rank % torch.cuda.device_count()) if local_rank else torch.device("cuda")


@checked
def load(path: str | Path, device: torch.device | str | None = None, *, network: Segmenter | None = None) -> Model:
    """The model of a run folder, or of one of its model folders.

    Args:
        device: where it computes; by default a GPU if there is one.
        network: the module that the model's weights are for, where it is one of the user's (``models.wrap``).

    Raises:
        SegRefineryError: no model there, or one that does not fit its description.
    """
    folder = model_folder(path)
    config = read_config(folder / CONFIG, ModelConfig)
    space = LabelSpace(config.space, config.classes, config.colors)
    if network is None:
        segmenter = build_model(config.model.model_copy(update={"weights": "none"}), space.num_classes)
    else:
        segmenter = copy.deepcopy(network)
    whole: nn.Module = segmenter
    for settings in config.refine.values():
        whole = settings.build(segmenter, space).predictor(whole)  # pyright: ignore[reportAttributeAccessIssue]
    with remedied_by_its_run(folder):
        load_weights(whole, folder / TENSORS)
    whole.to(device or default_device())
    data = config.data.read_by(segmenter.normalization)
    return Model(
        whole.eval(), segmenter.eval(), space, data, config.window, config.merge, config.image_size, folder=folder
    )


def load_as_asked(run: Path, window: str | None, device: str | None) -> Model:
    """A run's model by a command's options: on a device, with the window a user asks for instead of its own."""
    if device is not None and device.partition(":")[0] not in ("cpu", "cuda"):
        raise SegRefineryError(f"--device {device}: write cpu, cuda or cuda:NUMBER")
    if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
        raise SegRefineryError(f"--device {device}: there is no CUDA GPU here, or torch cannot use it; leave it out")
    model = load(run, device)
    if window is not None:
        model.window = two_sides("--window", window)
    return model


def origin_of(path: str | Path) -> Origin:
    """What the model that ``load`` would open was trained on."""
    return read_config(model_folder(path) / CONFIG, ModelConfig).trained_on


class ModelKeeper(RunEvents):
    """Writes the model of every stage that ends: ``source_model/`` of one that saw the source alone, else ``model/``.

    Attributes:
        about: what the models of the run have in common; network, refiners and stage are filled in for each.
        candidates: also keep each one by itself, in ``candidates/STAGE/``, for the best to be chosen.
    """

    def __init__(self, folder: Path, about: ModelConfig, candidates: bool = False) -> None:
        self.folder, self.about, self.candidates = folder, about, candidates

    def ended(self, end: StageEnd) -> None:
        config = self.described(end)
        save_network(self.folder / ("source_model" if end.source_only else "model"), end.predictor, config)
        if self.candidates and not end.source_only:
            save_network(self.folder / "candidates" / end.name, end.predictor, config)

    def described(self, end: StageEnd) -> ModelConfig:
        """All that ``load`` needs to know of a stage's model."""
        chain = {name: settings for name, settings in end.settings.chain.items() if name in end.inference_refiners}
        changes = {
            "model": end.model,
            "data": self.about.data.read_by(normalization_of(end.predictor)),
            "refine": chain,
            "trained_on": self.about.trained_on.model_copy(update={"stage": end.name}),
        }
        return self.about.model_copy(update=changes)
