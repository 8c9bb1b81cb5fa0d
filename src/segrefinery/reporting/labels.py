"""What the labels are like: their classes, their entropies, and what a mixture of entropies keeps of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segrefinery.core.errors import SegRefineryError
from segrefinery.engine.checkpoints import load_safely
from segrefinery.evaluation.inference import predict_probs
from segrefinery.evaluation.results import per_image_counts
from segrefinery.labels import IGNORE
from segrefinery.refine.base import PseudoLabels
from segrefinery.refine.confidence import normalized_entropy
from segrefinery.refine.entropy_mixture import EntropyMixture, Mixture, fit_two_gaussians
from segrefinery.refine.pixel_attention.formulas import group_entropy
from segrefinery.refine.self_labeling.refiner import SelfLabeling
from segrefinery.reporting.charts import bar_rows, histogram_chart, line_chart
from segrefinery.reporting.markup import Markup, element, figure, percent, section
from segrefinery.reporting.material import Material, Shot, ShownModel
from segrefinery.reporting.pictures import heat_map, label_map, photo, scale_bar

BINS = 64


def labels_section(material: Material) -> Markup | None:
    """Class shares of the labels, and the entropy of right and wrong pixels from stage to stage."""
    charts = [chart for chart in (_class_shares(material), _right_and_wrong(material)) if chart is not None]
    return section("The labels", element("div", charts, class_="charts")) if charts else None


def _class_shares(material: Material) -> Markup | None:
    space, shares, where = material.space, {}, f"on {material.recipe.get('evaluation')}"
    if space is None:
        return None
    for name, key in (("source-only", "source_only"), ("adapted", "adapted")):
        kept = material.results.get(key)
        if kept and (material.folder / "evaluation" / f"{kept['stage']}.npz").exists():
            counts = per_image_counts(material.folder, kept["stage"]).sum(dim=0).double()
            shares["reference"] = _normalized(counts.sum(dim=1))
            shares[f"labels of {name}"] = _normalized(counts.sum(dim=0))
    if not shares:
        where = "on the images shown above"
        for name, side in (("source-only", "before"), ("adapted", "after")):
            maps = [probs for shot in material.shots if (probs := getattr(shot, side)) is not None]
            if maps:
                counted = sum(torch.bincount(p.argmax(dim=0).flatten(), minlength=space.num_classes) for p in maps)
                shares[f"labels of {name}"] = _normalized(torch.as_tensor(counted).double())
    for refiner in material.refiners.values():
        if isinstance(refiner, SelfLabeling):
            shares["distribution that CPSL balances to"] = refiner.distribution.tolist()
    if not shares:
        return None
    return figure(bar_rows(space.classes, shares, "class shares"), f"Share of the pixels of each class, {where}")


def _right_and_wrong(material: Material) -> Markup | None:
    """Fig. 4 of SAM: adaptation should make right pixels sure, and leave wrong ones unsure."""
    shots, last = material.evaluation_shots, material.last
    if not shots or last is None:
        return None
    points: dict[str, list[tuple[float, float]]] = {"right pixels": [], "wrong pixels": []}
    names = []
    for name in material.finished:
        try:
            state = load_safely(material.folder / "stages" / name / "result.pt")["model"]
            last.segmenter.load_state_dict(state)
        except (RuntimeError, SegRefineryError):  # another network than the last one
            continue
        names.append(name)
        for label, value in zip(points, _entropies(last, shots), strict=True):
            points[label].append((len(names), value))
    material.forget_networks()
    if not names:
        return None
    chart = line_chart(points, "stage", "entropy, nats", "entropy of right and wrong pixels", dots=True)
    order = ", ".join(f"{place} {name}" for place, name in enumerate(names, 1))
    return figure(
        chart, f"Entropy of right and wrong pixels after each stage ({order}), on the evaluation images above"
    )


def _entropies(trained: ShownModel, shots: list[Shot]) -> tuple[float, float]:
    """Mean over the images of the mean entropy of the right and of the wrong pixels."""
    groups: tuple[list[Tensor], list[Tensor]] = ([], [])
    for shot in shots:
        assert shot.label is not None
        size = (shot.label.shape[-2], shot.label.shape[-1])
        probs = predict_probs(trained.segmenter, shot.image, trained.data, trained.window, size).cpu()
        right = probs.argmax(dim=0) == shot.label
        for group, mask in zip(groups, (right, ~right & (shot.label != IGNORE)), strict=True):
            group.append(group_entropy(probs[None], mask[None]))
    right, wrong = (float(torch.stack(group).nanmean()) for group in groups)
    return right, wrong


def mixture_section(material: Material) -> Markup | None:
    """UncerDA's entropy mixtures on one target image: histogram, both Gaussians, kept pixels."""
    refiner = next((one for one in material.refiners.values() if isinstance(one, EntropyMixture)), None)
    if refiner is None or material.last is None or not material.target_shots:
        return None
    shot, space = material.target_shots[0], material.last.space
    view = material.last.view(shot.image)
    labels = refiner(view, PseudoLabels.from_view(view))
    labels = PseudoLabels(labels.probs.cpu(), labels.weight.cpu(), labels.aligned)
    entropy, predicted = normalized_entropy(labels.probs)[0], labels.probs.argmax(dim=1)[0]
    frequent = torch.bincount(predicted.flatten(), minlength=space.num_classes).argsort(descending=True)[:3].tolist()
    charts = [
        _mixture(space.classes[place], entropy[predicted == place], labels.weight[0][predicted == place])
        for place in frequent
        if int((predicted == place).sum()) > 1
    ]
    full = labels.resize((shot.image.shape[-2], shot.image.shape[-1]))
    kept = f"kept: {percent(float((full.weight > 0).float().mean()), 0)} % of the pixels"
    unsure = element("span", "entropy ", scale_bar("0", "1"))
    pictures = [
        figure(photo(shot.image, f"image {shot.name}"), shot.name),
        figure(heat_map(entropy, "entropy", class_="crisp"), unsure),
        figure(label_map(full.labels[0], space, "kept labels", class_="solid"), kept),
    ]
    lead = (
        "Entropies of the last network on one target image, class by class. Pixels of the certain (left) component are "
        "kept (coloured bars), the others are not learned from (grey)."
    )
    body = element("div", pictures, class_="pictures"), element("div", charts, class_="charts")
    return section("Entropy mixtures", *body, lead=lead)


def _mixture(name: str, values: Tensor, weight: Tensor) -> Markup:
    places = (values * BINS).long().clamp(0, BINS - 1)
    counts = torch.bincount(places, minlength=BINS).double()
    kept = torch.bincount(places, weights=(weight > 0.5).double(), minlength=BINS) * 2 > counts
    curves = gaussians(fit_two_gaussians(values))
    chart = histogram_chart(
        counts.tolist(), curves, "normalised entropy", "density", f"entropies of {name}", kept.tolist()
    )
    return figure(chart, f"{name}: {len(values)} pixels of the network's grid")


def gaussians(mixture: Mixture, points: int = 240) -> dict[str, list[tuple[float, float]]]:
    """Both weighted densities over [0, 1]."""
    grid = [place / points for place in range(points + 1)]
    curves = {}
    for place, name in enumerate(("certain", "uncertain")):
        weight, mean, std = (float(part[place]) for part in (mixture.weights, mixture.means, mixture.stds))
        scale = weight / (std * math.sqrt(2 * math.pi)) if std > 0 else math.nan
        curves[name] = [(x, scale * math.exp(-0.5 * ((x - mean) / std) ** 2) if std > 0 else math.nan) for x in grid]
    return curves


def _normalized(counts: Tensor) -> list[float]:
    return (counts / counts.sum().clamp(min=1)).tolist()
