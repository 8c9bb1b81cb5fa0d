"""Features class by class: sums, and the prototypes and class shares that one pass over the target finds."""

import pytest
import torch
import torch.nn.functional as F

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.batch import UnlabeledBatch
from segrefinery.refine.class_features import class_sums, gather_statistics
from toys import labeled, toy_teacher, unlabeled

pytestmark = pytest.mark.filterwarnings("ignore:the teacher labels hardly any")
NAMES = ("road", "sky", "car", "train", "bike")


def test_class_sums_skip_ignored_pixels():
    features = torch.tensor([[[[1.0, 2.0, 4.0, 8.0]]]])
    sums, counts = class_sums(features, torch.tensor([[[0, 1, 255, 1]]]), 3)
    assert sums.flatten().tolist() == [1, 10, 0]
    assert counts.flatten().tolist() == [1, 2, 0]


def test_class_sums_refuse_features_that_are_not_finite():
    with pytest.raises(SegRefineryError, match="NaN"):
        class_sums(torch.tensor([[[[1.0, float("nan")]]]]), torch.tensor([[[0, 1]]]), 3)


@pytest.mark.parametrize("normalize", [False, True])
def test_gathered_prototypes_are_class_means_over_all_pixels(normalize):
    teacher = toy_teacher()
    batches = [unlabeled(2, seed=1), unlabeled(1, seed=2)]
    views = [teacher.view(batch.image) for batch in batches]
    features = torch.cat([view.features.permute(0, 2, 3, 1).flatten(0, 2) for view in views])
    features = F.normalize(features, dim=1) if normalize else features
    labels = torch.cat([view.logits.argmax(1).flatten() for view in views])
    found = gather_statistics(teacher, [labeled()], batches, NAMES, normalize=normalize)
    for known in labels.unique():
        torch.testing.assert_close(found.prototypes[known], features[labels == known].mean(0))
    torch.testing.assert_close(found.distribution, torch.bincount(labels, minlength=5) / len(labels))


def test_mean_of_image_means_differs_where_a_class_varies_in_size():
    teacher = toy_teacher()
    batches = [unlabeled(2, seed=1), unlabeled(2, seed=2)]
    pixels = gather_statistics(teacher, [labeled()], batches, NAMES, "pixels")
    images = gather_statistics(teacher, [labeled()], batches, NAMES, "images", least=1)
    labels = [teacher.view(batch.image).logits.argmax(1) for batch in batches]
    features = [teacher.view(batch.image).features for batch in batches]
    common = int(torch.cat([label.flatten() for label in labels]).mode().values)
    means = [
        feature[:, own == common].mean(1)
        for feature_batch, label in zip(features, labels)
        for feature, own in zip(feature_batch, label)
        if (own == common).any()
    ]
    torch.testing.assert_close(images.prototypes[common], torch.stack(means).mean(0))
    assert not torch.allclose(images.prototypes[common], pixels.prototypes[common])


def test_a_class_the_teacher_never_names_takes_its_prototype_from_the_source():
    teacher = toy_teacher()
    with torch.no_grad():
        teacher.network.classifier.bias[2] = -1e3
    source = labeled()
    with pytest.warns(UserWarning, match=r"car.*source"):
        found = gather_statistics(teacher, [source], [unlabeled()], NAMES)
    label = F.interpolate(source.label[:, None].float(), (8, 12))[:, 0]
    features = teacher.view(source.image).features.permute(0, 2, 3, 1)[label == 2]
    torch.testing.assert_close(found.prototypes[2], features.mean(0))
    assert found.distribution[2] == 0
    assert found.distribution.sum().item() == pytest.approx(1)


def test_a_class_that_is_nowhere_gets_a_finite_random_direction():
    teacher = toy_teacher()
    with torch.no_grad():
        teacher.network.classifier.bias[3] = -1e3
    source = labeled()
    source.label[source.label == 3] = 255
    with pytest.warns(UserWarning, match=r"train.*random"):
        found = gather_statistics(teacher, [source], [unlabeled()], NAMES)
    assert found.prototypes.isfinite().all()
    assert found.prototypes[3].norm() > 0


def test_no_image_and_diverged_networks_are_named():
    with pytest.raises(SegRefineryError, match="no image"):
        gather_statistics(toy_teacher(), [], [], NAMES)
    spoilt = unlabeled()
    spoilt = UnlabeledBatch(spoilt.image * float("nan"), spoilt.index)
    with pytest.raises(SegRefineryError, match="NaN"):
        gather_statistics(toy_teacher(), [], [spoilt], NAMES)
