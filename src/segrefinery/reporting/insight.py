"""Looks inside two refiners: which pixels SAM's attention puts together, and which learner IR2F trusts where."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segrefinery.data.transforms import resize_for_evaluation
from segrefinery.evaluation.inference import device_of
from segrefinery.labels import LabelSpace
from segrefinery.refine.implicit_rectification.refiner import ImplicitRectifier
from segrefinery.refine.pixel_attention.formulas import attention_map
from segrefinery.refine.pixel_attention.network import AttentionModule
from segrefinery.refine.pixel_attention.refiner import PixelAttention
from segrefinery.reporting.markup import Markup, element, figure, section
from segrefinery.reporting.material import Material
from segrefinery.reporting.pictures import heat_map, photo, scale_bar

CROP = (96, 140)
"""Height and width of the part in which the rectification is shown, so that 4x fits a picture."""
THIN = ("pole", "traffic light", "traffic sign", "fence", "person", "rider", "bicycle", "motorcycle")


def attention_section(material: Material) -> Markup | None:
    """Fig. 3 of SAM: similarity of every pixel to the surest pixel of a class, before and after attention."""
    refiner = next((one for one in material.refiners.values() if isinstance(one, PixelAttention)), None)
    if refiner is None or "logits" not in refiner.layers or material.last is None or not material.shots:
        return None
    module, space = refiner.attention["logits"], material.last.space
    assert isinstance(module, AttentionModule)
    shot = material.shots[0]
    logits = material.last.view(shot.image).logits
    probs = logits.float().softmax(dim=1)[0]
    predicted = probs.argmax(dim=0)
    frequent = torch.bincount(predicted.flatten(), minlength=space.num_classes).argsort(descending=True)[:3].tolist()
    rows = []
    for place in frequent:
        if not (predicted == place).any():
            continue
        surest = int(probs[place].masked_fill(predicted != place, -1).argmax())
        position = (surest // predicted.shape[1], surest % predicted.shape[1])
        before, after = attention_map(logits, module.embed(logits.float()), position)
        name = space.classes[place]
        center = ((position[1] + 0.5) / predicted.shape[1], (position[0] + 0.5) / predicted.shape[0])
        rows.append(
            element(
                "div",
                figure(
                    photo(shot.image, f"surest pixel of {name}", mark=center), f"{name}: its surest pixel is circled"
                ),
                figure(heat_map(before[0], f"similarity to {name} before", class_="crisp"), "logits alone"),
                figure(heat_map(after[0], f"similarity to {name} after", class_="crisp"), "with attention"),
                class_="pictures",
            )
        )
    lead = element("span", "Similarity of every pixel to the surest pixel of a class: ", scale_bar("0", "1"))
    return section("Pixel attention", *rows, lead=lead)


def rectification_section(material: Material) -> Markup | None:
    """IR2F: the weight of the first learner, decoded at the image's resolution and four times as fine."""
    refiner = next((one for one in material.refiners.values() if isinstance(one, ImplicitRectifier)), None)
    if refiner is None or material.last is None or not material.shots:
        return None
    trained, shot = material.last, material.shots[0]
    resized = resize_for_evaluation(shot.image, trained.data)
    size = (min(CROP[0], resized.shape[-2]), min(CROP[1], resized.shape[-1]))
    label = trained.predict(shot.image, (resized.shape[-2], resized.shape[-1])).argmax(dim=0)
    top, left = thinnest_crop(label, trained.space, size)
    part = resized[:, top : top + size[0], left : left + size[1]]
    learners = trained.segmenter(part.unsqueeze(0).to(device_of(trained.segmenter))).learners
    maps = {factor: _first_weight(refiner, learners, factor, size) for factor in (1, 4)}
    low, high = float(maps[4].min()), float(maps[4].max())
    spread = max(high - low, 1e-6)
    pictures = [figure(_crop_photo(shot.image, resized, top, left, size), f"{shot.name}, a crop with thin objects")]
    for factor, weights in maps.items():
        name = f"weight of the first learner, {factor}x"
        pictures.append(figure(heat_map((weights - low) / spread, name, class_="crisp"), name))
    lead = element(
        "span", "How far the rectification trusts the first classifier at each point: ",
        scale_bar(f"{low:.2f}", f"{high:.2f}"), " The function is decoded at each resolution, not "
        "up-sampled; network and function see the crop alone.",
    )  # fmt: skip
    return section("Rectification", element("div", pictures, class_="pictures"), lead=lead)


def _first_weight(refiner: ImplicitRectifier, learners, factor: int, size: tuple[int, int]) -> Tensor:
    """H x W, the mean over the classes where each has a weight of its own."""
    weights = refiner.function.decode_weights(learners, (factor * size[0], factor * size[1]))[0, 0]
    return weights.mean(dim=0) if weights.ndim == 3 else weights


def thinnest_crop(label: Tensor, space: LabelSpace, size: tuple[int, int]) -> tuple[int, int]:
    """Top and left of the crop of an H x W label map with most pixels of thin classes, or, where the space has none,
    with most class borders."""
    wanted = [place for place, name in enumerate(space.classes) if name.casefold() in THIN]
    hit = torch.isin(label, torch.tensor(wanted)) if wanted else torch.zeros_like(label, dtype=torch.bool)
    if not hit.any():
        hit[:, 1:] |= label[:, 1:] != label[:, :-1]
        hit[1:] |= label[1:] != label[:-1]
    density = F.avg_pool2d(hit[None, None].float(), size, stride=1)[0, 0]
    best = int(density.argmax())
    return best // density.shape[1], best % density.shape[1]


def _crop_photo(image: Tensor, resized: Tensor, top: int, left: int, size: tuple[int, int]) -> Markup:
    """The same part of the image as it was given."""
    tall, wide = image.shape[-2] / resized.shape[-2], image.shape[-1] / resized.shape[-1]
    rows = slice(round(top * tall), round((top + size[0]) * tall))
    columns = slice(round(left * wide), round((left + size[1]) * wide))
    return photo(image[:, rows, columns], "the crop")
