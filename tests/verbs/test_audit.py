"""An audit: which images, with which weights, and what their masks say."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import segrefinery as api
from runs import NIGHT, tiny_run
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.datasets import open_dataset
from segrefinery.evaluation.estimate import miou, stratified_draws
from segrefinery.verbs.audit import Picked, estimate_scores, prepare_audit, score_audit, stratify


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("audit") / "run")


@pytest.fixture
def audit(run, tmp_path):
    folder = tmp_path / "audit"
    return folder, prepare_audit(run, NIGHT, folder, 4)


def true_masks(run, picked, folder):
    """What a careful annotator would draw: the reference labels, in the run's classes."""
    classes = json.loads((run / "model" / "config.json").read_text())["classes"]
    dataset = open_dataset(NIGHT)
    assert dataset.space is not None
    table = np.full(256, 255, dtype=np.uint8)
    for index, name in enumerate(dataset.space.classes):
        if name in classes:
            table[index] = classes.index(name)
    folder.mkdir()
    for one in picked:
        Image.fromarray(table[dataset.label(one.index).numpy()]).save(folder / f"{one.stem}.png")
    return folder


def test_weights_add_up_to_the_target():
    doubts = [index / 100 for index in range(100)]
    chosen = stratify(doubts, 20, total=1000)
    assert len({place for place, _, _ in chosen}) == 20
    assert sum(weight for _, _, weight in chosen) == pytest.approx(1000)
    assert stratify(doubts, 20, 1000) == chosen


def test_doubtful_images_are_picked_more_often():
    chosen = stratify([0.01] * 50 + [0.5] * 50, 20, total=100)
    strata = [stratum for _, stratum, _ in chosen]
    assert strata.count(0) == 2
    assert strata.count(3) > strata.count(1)


@pytest.mark.parametrize(("images", "count"), [(3, 10), (2, 2), (5, 3), (40, 7)])
def test_small_targets(images, count):
    chosen = stratify([0.0] * images, count, total=images)
    assert len(chosen) == min(images, count)
    assert sum(weight for _, _, weight in chosen) == pytest.approx(images)


def test_a_stratified_estimate_is_unbiased():
    # Images differ by stratum alone, so whatever is drawn, the weighted estimate is the truth.
    doubts = [0.0] * 30 + [1.0] * 10
    right, wrong = torch.tensor([[10, 0], [0, 10]]), torch.tensor([[5, 5], [5, 5]])
    truth = float(miou(torch.ones(40).double(), torch.stack([right] * 30 + [wrong] * 10)))
    chosen = stratify(doubts, 8, total=40)
    picked = [Picked(place, "", "", 1, 1, doubts[place], stratum, weight) for place, stratum, weight in chosen]
    counts = torch.stack([right if doubts[one.index] == 0 else wrong for one in picked])
    found = estimate_scores({"model": counts}, picked, None)[0]
    assert found.miou == pytest.approx(truth)
    assert found.interval == pytest.approx((truth, truth))


def test_every_stratum_is_drawn_from_itself():
    draws = stratified_draws([0, 0, 0, 1, 1], 50)
    assert draws[:, :3].sum(dim=1).tolist() == [3] * 50
    assert draws[:, 3:].sum(dim=1).tolist() == [2] * 50


def test_what_an_audit_writes(audit):
    folder, picked = audit
    assert len(picked) == 4
    assert {path.name for path in folder.iterdir()} == {
        "images", "masks", "cvat.zip", "cvat_labels.json", "label_studio.json", "label_studio.xml", "audit.json",
    }  # fmt: skip
    for one in picked:
        assert Image.open(folder / "images" / f"{one.stem}.png").size == (one.width, one.height)
        assert Image.open(folder / "masks" / f"{one.stem}.png").size == (one.width, one.height)


def test_scores_with_intervals_for_this_and_other_runs(run, audit, tmp_path):
    folder, picked = audit
    other = tmp_path / "other"
    shutil.copytree(run, other)
    masks = true_masks(run, picked, tmp_path / "labelled")
    found = {model.name: model for model in api.audit(run, NIGHT, folder, masks=masks, others=[other]).models}
    assert set(found) == {str(run), f"{run}/source_model", str(other), f"{other}/source_model"}
    for model in found.values():
        assert 0 <= model.interval[0] <= model.miou + 1e-9
        assert model.miou <= model.interval[1] + 1e-9
    assert found[str(run)].miou == found[str(other)].miou
    assert found[str(run)].difference == pytest.approx(found[str(run)].miou - found[f"{run}/source_model"].miou)
    assert found[f"{run}/source_model"].difference is None


def test_a_place_that_cannot_be_written_is_named_before_images_are_looked_at(run, tmp_path, monkeypatch):
    monkeypatch.setattr("segrefinery.verbs.audit.doubt", None)
    (tmp_path / "file").touch()
    with pytest.raises(SegRefineryError, match=r"file/audit/audit\.json: cannot be written"):
        api.audit(run, NIGHT, tmp_path / "file" / "audit")


def test_what_cannot_be_audited_is_named(run, audit, tmp_path):
    folder, picked = audit
    with pytest.raises(SegRefineryError, match="holds an audit already"):
        prepare_audit(run, NIGHT, folder, 4)
    with pytest.raises(SegRefineryError, match="at least two images"):
        prepare_audit(run, "scenes:night,count=1,size=32x64", tmp_path / "one")
    with pytest.raises(SegRefineryError, match="holds no audit"):
        score_audit(run, NIGHT, tmp_path, folder / "masks")
    with pytest.raises(SegRefineryError, match=f"audits {NIGHT}, not scenes:fog"):
        score_audit(run, "scenes:fog", folder, folder / "masks")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/audit.json").write_text('{"images": []}')
    with pytest.raises(SegRefineryError, match=r"audit.json: not readable \(it lacks 'target'\); pick the images anew"):
        score_audit(run, NIGHT, tmp_path / "damaged", folder / "masks")
    with pytest.raises(SegRefineryError, match="starting masks, unchanged"):
        score_audit(run, NIGHT, folder, folder / "masks")
    masks = true_masks(run, picked, tmp_path / "labelled")
    (masks / f"{picked[0].stem}.png").unlink()
    with pytest.raises(SegRefineryError, match="no mask for 1 of 4"):
        score_audit(run, NIGHT, folder, masks)
    (folder / "audit.json").write_text("{}")
    with pytest.raises(SegRefineryError, match="not readable"):
        score_audit(run, NIGHT, folder, masks)


def test_an_audit_of_a_run_without_source_only(run, tmp_path):
    shutil.copytree(run / "model", tmp_path / "alone")
    assert len(prepare_audit(tmp_path / "alone", NIGHT, tmp_path / "audit", 3)) == 3


def test_odd_file_names_survive(run, tmp_path):
    pictures = tmp_path / "odd näme [1]"
    pictures.mkdir()
    for name in ("a b.png", "ä?.png", "x'y\"z.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(pictures / name)
    picked = prepare_audit(run, str(pictures), tmp_path / "audit", 3)
    assert len({one.stem for one in picked}) == 3
    assert all(" " not in one.stem and "?" not in one.stem for one in picked)


def test_masks_that_came_back_are_a_data_set(run, audit, tmp_path):
    folder, picked = audit
    masks = true_masks(run, picked, tmp_path / "masks")
    said = score_audit(run, NIGHT, folder, masks).remarks
    labels = open_dataset(f"folder:{folder}/labelled")
    assert any(f"--labels folder:{folder / 'labelled'}" in line for line in said)
    assert [labels.name(place) for place in range(len(labels))] == sorted(one.stem for one in picked)
    classes = json.loads((run / "model" / "config.json").read_text())["classes"]
    assert labels.space is not None
    assert list(labels.space.classes) == classes
    for place in range(len(labels)):
        mask = np.asarray(Image.open(masks / f"{labels.name(place)}.png"))
        assert np.array_equal(labels.label(place).numpy(), mask)


def test_labels_that_taught_are_not_silently_scored_by(run, audit, tmp_path):
    folder, picked = audit
    masks = true_masks(run, picked, tmp_path / "masks")
    before = score_audit(run, NIGHT, folder, masks)
    assert not any("too high" in remark for remark in before.remarks)
    labels = f"folder:{folder / 'labelled'}"
    taught = tiny_run(tmp_path / "taught", labels=labels)
    after = score_audit(run, NIGHT, folder, masks, [taught])
    (remark,) = [remark for remark in after.remarks if "too high" in remark]
    assert remark.startswith(f"4 of the 4 images taught {taught} ")
    with pytest.warns(UserWarning, match="4 of the 4 images taught this model"):
        api.evaluate(api.load(taught), labels)
    shutil.move(folder / "labelled", tmp_path / "elsewhere")
    again = score_audit(run, NIGHT, folder, tmp_path / "elsewhere" / "masks", [taught])
    assert any("too high" in remark for remark in again.remarks)  # the audit keeps the masks anew


def test_labels_held_out_of_a_run_may_score_it(run, audit, tmp_path):
    folder, picked = audit
    score_audit(run, NIGHT, folder, true_masks(run, picked, tmp_path / "masks"))
    labels = f"folder:{folder / 'labelled'}"
    taught = tiny_run(tmp_path / "taught", labels=labels, overrides=("training.holdout=0.5",))
    with pytest.warns(UserWarning, match="2 of the 4 images taught this model"):
        api.evaluate(taught, labels)
