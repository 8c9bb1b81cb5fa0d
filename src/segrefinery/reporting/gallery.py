"""The pictures: before and after under one slider, reference, pseudo-label and its weight."""

from __future__ import annotations

from torch import Tensor

from segrefinery.labels import IGNORE, LabelSpace
from segrefinery.reporting.markup import Markup, element, figure, percent, section
from segrefinery.reporting.material import Material, Shot
from segrefinery.reporting.pictures import heat_map, label_map, photo, scale_bar


def gallery_section(material: Material) -> Markup | None:
    """A fixed choice of images; it does not depend on how well they turned out."""
    space = material.space
    if space is None or not material.shots:
        return None
    groups = []
    for title, shots in (
        (f"Evaluation images: {material.recipe.get('evaluation')}", material.evaluation_shots),
        (f"Target images: {material.recipe.get('target')}", material.target_shots),
    ):
        if shots:
            groups += [element("h3", title), *(shot_card(shot, space) for shot in shots)]
    both = material.before is not None and material.after is not None
    lead = (
        "Drag the slider, or focus it and use the arrow keys: "
        + ("left of the line is source-only, right of it the adapted model. " if both else "the prediction is right. ")
        + "The images are a fixed choice that depends on the seed alone."
    )
    blend = element(
        "label", "Labels over the photo ",
        element("input", type="range", id="blend", min=0, max=100, value=75, aria_label="opacity of the labels"),
        class_="blend",
    )  # fmt: skip
    return section("Pictures", element("div", class_legend(space), blend, class_="toolbar"), *groups, lead=lead)


def class_legend(space: LabelSpace) -> Markup:
    """The classes with their colours."""
    items = [
        element("li", element("i", style=f"background: rgb{color}"), name)
        for name, color in zip(space.classes, space.colors, strict=True)
    ]
    return element("ul", items, class_="legend classes", aria_label="colours of the classes")


def shot_card(shot: Shot, space: LabelSpace) -> Markup:
    """One image: the slider, and the small pictures beside it."""
    small = [figure(photo(shot.image, f"image {shot.name}"), "image")]
    if shot.label is not None:
        small.append(figure(_solid(shot.label, space, "reference"), "reference"))
    if shot.pseudo is not None:
        full = shot.pseudo.resize((shot.image.shape[-2], shot.image.shape[-1]))
        kept = f"pseudo-label ({percent(float((full.weight > 0).float().mean()), 0)} % kept)"
        small.append(figure(_solid(full.labels[0], space, "pseudo-label"), kept))
        weight = element("span", "weight ", scale_bar("0", "1"))
        small.append(figure(heat_map(full.weight[0], "weight of the pseudo-label"), weight))
    caption = element("h4", shot.name, element("small", _right(shot)))
    columns = element("div", slider(shot, space), element("div", small, class_="small"), class_="columns")
    return element("article", caption, columns, class_="card")


def slider(shot: Shot, space: LabelSpace) -> Markup:
    """Two label maps over the photo; the range input moves the line between them."""
    sides = [
        (name, probs) for name, probs in (("source-only", shot.before), ("adapted", shot.after)) if probs is not None
    ]
    layers = [photo(shot.image, "", class_="photo")]
    *before, (after_name, after) = sides
    before_name = "image"
    if before:
        before_name, probs = before[0]
        layers.append(label_map(probs.argmax(dim=0), space, before_name, class_="labels before"))
    layers.append(label_map(after.argmax(dim=0), space, after_name, class_="labels after"))
    control = element(
        "input", type="range", min=0, max=100, step=1, value=50, class_="divider",
        aria_label=f"line between {before_name} (left) and {after_name} (right) on {shot.name}",
    )  # fmt: skip
    tags = [element("span", before_name, class_="tag left"), element("span", after_name, class_="tag right")]
    return element("div", layers, element("span", class_="line"), tags, control, class_="compare")


def _solid(label: Tensor, space: LabelSpace, alt: str) -> Markup:
    return label_map(label, space, alt, class_="solid")


def _right(shot: Shot) -> str | None:
    """The share of this image's pixels that are right, before and after."""
    if shot.label is None:
        return None
    known = shot.label != IGNORE
    said = []
    for name, probs in (("source-only", shot.before), ("adapted", shot.after)):
        if probs is not None and known.any():
            right = float((probs.argmax(dim=0) == shot.label)[known].float().mean())
            said.append(f"{percent(right, 0)} % {name}")
    return f"pixels right: {', '.join(said)}" if said else None
