"""A trained model as a run leaves it: a network, its classes, and how it reads images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from segrefinery.data.transforms import DataSettings
from segrefinery.errors import SegRefineryError
from segrefinery.evaluation.inference import predict_probs
from segrefinery.labels import LabelSpace
from segrefinery.models import Segmenter, build_model, load_weights
from segrefinery.models.weights import CONFIG, TENSORS, read_config
from segrefinery.refine import parse_chain


@dataclass
class Model:
    """A trained network with all it needs to read an image and name what it sees.

    Attributes:
        network: in eval mode; ``segmenter`` is the plain network inside it, where refiners act at inference too.
        space: its classes.
        data: how images are resized and normalised.
        window: height and width of sliding windows, or None for whole images.
        merge: how classes were renamed before training; data sets it is evaluated on are renamed alike.
    """

    network: nn.Module
    segmenter: Segmenter
    space: LabelSpace
    data: DataSettings
    window: tuple[int, int] | None = None
    merge: dict[str, str | None] | None = None

    def predict(self, image: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """uint8 3 x H x W -> C x H x W class probabilities, at the image's own size or at ``size``."""
        return predict_probs(self.network, image, self.data, self.window, size)


def load(path: str | Path) -> Model:
    """The model of a run folder, or of one of its model folders.

    Raises:
        SegRefineryError: no model there, or one that does not fit its description.
    """
    folder = Path(path)
    found = [part for part in (folder, folder / "model", folder / "source_model") if (part / CONFIG).exists()]
    if not found:
        raise SegRefineryError(f"{folder}: holds no trained model; name a run folder or a model folder")
    config = read_config(found[0] / CONFIG)
    space = LabelSpace(config.space, config.classes, config.colors)
    segmenter = build_model(config.model.model_copy(update={"weights": "none"}), space.num_classes)
    network: nn.Module = segmenter
    for settings in parse_chain(config.extra["refine"]).values():
        network = settings.build(segmenter, space).predictor(network)  # pyright: ignore[reportAttributeAccessIssue]
    load_weights(network, found[0] / TENSORS)
    window, data = config.extra["window"], DataSettings.model_validate(config.extra["data"])
    return Model(network.eval(), segmenter.eval(), space, data, window and tuple(window), config.extra.get("merge"))
