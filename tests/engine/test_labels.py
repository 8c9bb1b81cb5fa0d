"""Labelled target images that teach: whole runs, the walls around them, and what is said of them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import segrefinery as api
import segrefinery.engine.loop as loop
from data.test_joined import described
from runs import NIGHT, TEST, same, tiny_run, weights
from segrefinery.core.errors import SegRefineryError
from segrefinery.core.files import read_json
from segrefinery.data.batch import LabeledBatch, UnlabeledBatch
from segrefinery.data.datasets import open_dataset
from segrefinery.data.labelled import parts_in_turn
from segrefinery.data.scan import pixel_digests
from segrefinery.engine.scorer import HELD_OUT, Scorer
from segrefinery.evaluation.results import read_results

LABELS = "scenes:night,count=3,size=32x64"


class Killed(BaseException):
    """Stands for a process that dies without a chance to clean up."""


def written(folder, dataset, places):
    """Images of a data set as files, with masks of the same ids, beside their description."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for place in places:
        Image.fromarray(dataset.image(place).permute(1, 2, 0).numpy()).save(folder / "images" / f"{place}.png")
        Image.fromarray(dataset.label(place).numpy().astype(np.uint8)).save(folder / "masks" / f"{place}.png")
    names = ", ".join(dataset.space.classes)
    (folder / "dataset.yaml").write_text(
        f"images: images/{{name}}.png\nmasks: masks/{{name}}.png\nclasses: [{names}]\n", encoding="utf-8"
    )
    return f"folder:{folder}"


@pytest.fixture
def batches(monkeypatch):
    """Every batch that a stage was given, with the stage's name."""
    seen = []
    micro = loop.micro_batches

    def told(fabric, name, *rest):
        for batch in micro(fabric, name, *rest):
            seen.append((name, batch))
            yield batch

    monkeypatch.setattr(loop, "micro_batches", told)
    return seen


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("taught") / "run", labels=LABELS)


def losses(run, stage):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train" and line["stage"] == stage]


def test_labels_teach_in_adaptation_and_leave_the_source_only_model_alone(plain, taught):
    assert not same(weights(plain), weights(taught))
    assert (plain / "source_model" / "model.safetensors").read_bytes() == (
        taught / "source_model" / "model.safetensors"
    ).read_bytes()
    assert all("labels" in told for told in losses(taught, "adapt"))
    assert not any("labels" in told for told in losses(taught, "source") + losses(plain, "adapt"))


def test_labels_come_from_what_was_named_and_from_nothing_else(tmp_path, batches):
    tiny_run(tmp_path / "run", labels=LABELS, overrides=("stages.adapt.labelled.batch=4",))
    adapted = [batch for name, batch in batches if name == "adapt"]
    assert adapted
    for batch in adapted:
        assert set(batch.labeled_target.index.tolist()) <= {0, 1, 2}
        assert type(batch.labeled_target) is LabeledBatch
        assert len(batch.labeled_target) == 4
        assert type(batch.target) is UnlabeledBatch
        assert not hasattr(batch.target, "label")
    assert all(batch.labeled_target is None for name, batch in batches if name == "source")


def test_few_labels_are_repeated_fairly(tmp_path, batches):
    tiny_run(tmp_path / "run", labels=LABELS, overrides=("stages.adapt.labelled.batch=3",))
    for name, batch in batches:
        if name == "adapt":
            assert sorted(batch.labeled_target.index.tolist()) == [0, 1, 2]


def test_rare_classes_may_be_drawn_more_often(tmp_path, taught):
    rare = tiny_run(tmp_path / "run", labels=LABELS, overrides=("stages.adapt.labelled.sampling=rare_class",))
    assert not same(weights(rare), weights(taught))


@pytest.mark.parametrize(
    ("recipe", "stage", "overrides"),
    [
        ("source_only", "source", ("stages.source.labelled.weight=1",)),
        (
            "adaptsegnet",
            "align",
            ("stages.source.steps=2", "stages.align.steps=3", "stages.align.discriminator_width=4"),
        ),
    ],
)
def test_other_stages_learn_from_labels_too(tmp_path, recipe, stage, overrides):
    run = tiny_run(tmp_path / "run", recipe, overrides, labels=LABELS)
    assert all(told["labels"] > 0 for told in losses(run, stage))
    assert (run / "model").exists()  # what labels taught is not source-only
    assert (run / "source_model").exists() == (stage != "source")


def test_their_weight_weighs_their_loss(tmp_path, taught):
    double = tiny_run(tmp_path / "run", labels=LABELS, overrides=("stages.adapt.labelled.weight=2",))
    first, other = losses(taught, "adapt")[0], losses(double, "adapt")[0]
    assert 1.5 < other["labels"] / first["labels"] < 2.5


def test_accumulated_labels_are_the_same_labels(tmp_path, batches):
    tiny_run(tmp_path / "run", labels=LABELS, overrides=("training.accumulate=2",))
    parts = [batch.labeled_target.index.tolist() for name, batch in batches if name == "adapt"]
    assert all(len(part) == 1 for part in parts)
    with pytest.raises(SegRefineryError, match=r"accumulate is 2, but stages\.adapt\.labelled\.batch is 3"):
        tiny_run(tmp_path / "odd", labels=LABELS, overrides=("training.accumulate=2", "stages.adapt.labelled.batch=3"))


@pytest.mark.parametrize("dies_at", [5, 8])
def test_resume_with_labels_is_exact(tmp_path, taught, monkeypatch, dies_at):
    steps, step = iter(range(100)), loop.one_step

    def mortal(*arguments):
        if next(steps) == dies_at:
            raise Killed
        return step(*arguments)

    monkeypatch.setattr(loop, "one_step", mortal)
    with pytest.raises(Killed):
        tiny_run(tmp_path / "run", labels=LABELS)
    monkeypatch.setattr(loop, "one_step", step)
    assert same(weights(taught), weights(tiny_run(tmp_path / "run", labels=LABELS, resume=True)))


def test_labels_are_part_of_a_stages_key_and_of_no_other(tmp_path, taught, plain, monkeypatch):
    trained, step = [], loop.one_step
    monkeypatch.setattr(loop, "one_step", lambda *given: (trained.append(given[1]), step(*given))[1])
    tiny_run(tmp_path / "again", labels=LABELS, reuse=taught)
    assert not trained
    other = tiny_run(tmp_path / "other", labels="scenes:night,count=2,size=32x64", reuse=taught)
    assert set(trained) == {"adapt"}
    assert not same(weights(other), weights(taught))
    trained.clear()
    ignored = ("stages.adapt.labelled.weight=0.5", "stages.adapt.labelled.sampling=rare_class")
    tiny_run(tmp_path / "plain", overrides=ignored, reuse=plain)  # without labels their settings are nothing
    assert not trained


def test_images_that_are_scored_on_do_not_teach(tmp_path):
    copies = written(tmp_path / "copies", open_dataset(TEST), [1])
    with pytest.raises(
        SegRefineryError, match=r"1\.png: labels: is also in the evaluation set, pixel for pixel.*--eval"
    ):
        tiny_run(tmp_path / "run", labels=f"{LABELS} + {copies}")
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_labelled_images_may_be_in_the_target_and_it_is_said(tmp_path):
    copies, said = written(tmp_path / "copies", open_dataset(NIGHT), [0, 2]), []
    run = tiny_run(tmp_path / "run", labels=copies, say=said.append)
    assert any(line.startswith("note: 2 of the 2 labelled images are also among the target's") for line in said)
    assert json.loads((run / "labels.json").read_text())["taught"] == ["0", "2"]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Labels (target images that taught)" in page
    assert "2 taught: 0, 2" in page


def test_labels_that_nobody_learns_from_are_refused(tmp_path):
    with pytest.raises(SegRefineryError, match=r"no stage of this recipe learns.*stages\.source\.labelled\.weight"):
        tiny_run(tmp_path / "run", "source_only", labels=LABELS)


def test_labels_without_masks_or_without_a_class_in_common_are_refused(tmp_path):
    copies, night = tmp_path / "copies", open_dataset(NIGHT)
    assert night.space is not None
    written(copies, night, [0])
    with pytest.raises(SegRefineryError, match=r"labels .*has no labels"):
        tiny_run(tmp_path / "run", labels=str(copies / "images"))
    text = "images: images/{name}.png\nmasks: masks/{name}.png\nclasses: "
    names = [f"thing {place}" for place in range(night.space.num_classes)]
    (copies / "dataset.yaml").write_text(f"{text}[{', '.join(names)}]\n", encoding="utf-8")
    with pytest.raises(SegRefineryError, match="no class is one of the run's"):
        tiny_run(tmp_path / "run", labels=f"folder:{copies}")


def test_labels_that_changed_are_named(tmp_path):
    copies = written(tmp_path / "copies", open_dataset(NIGHT), [0, 1])
    run = tiny_run(tmp_path / "run", labels=copies)
    mask = tmp_path / "copies" / "masks" / "1.png"
    shutil.copyfile(tmp_path / "copies" / "masks" / "0.png", mask)
    with pytest.raises(SegRefineryError, match="changed since the run began: the labels images"):
        tiny_run(run, labels=copies, resume=True)


def test_several_data_sets_of_labels_are_one(tmp_path, batches):
    copies = written(tmp_path / "copies", open_dataset(NIGHT), [4, 5])
    said = []
    tiny_run(
        tmp_path / "run",
        labels=[f"3 of {copies}", LABELS],
        say=said.append,
        overrides=("stages.adapt.labelled.batch=4",),
    )
    assert any("labels: drawn from" in line and "(2 images, 75 %)" in line for line in said)
    for name, batch in batches:
        if name == "adapt":
            assert sum(index < 2 for index in batch.labeled_target.index.tolist()) == 3


def test_held_out_labels_teach_nothing_and_score_the_models(tmp_path, batches):
    labels, said = "scenes:night,count=5,size=32x64", []
    run = tiny_run(
        tmp_path / "run", labels=labels, evaluation=None, say=said.append, overrides=("training.holdout=0.4",)
    )
    sides = json.loads((run / "labels.json").read_text())
    assert (len(sides["taught"]), len(sides["held_out"])) == (3, 2)
    assert not set(sides["taught"]) & set(sides["held_out"])
    indices = {index for name, batch in batches if name == "adapt" for index in batch.labeled_target.index.tolist()}
    assert indices <= {0, 1, 2}
    found = json.loads((run / "results.json").read_text())["held_out"]
    assert found["images"] == 2
    assert [model["name"] for model in found["models"]] == ["source", "adapt"]
    for model in found["models"]:
        assert 0 <= model["interval"][0] <= model["miou"] + 1e-9
        assert model["miou"] <= model["interval"][1] + 1e-9 <= 1.1
    assert found["models"][1]["difference"] == pytest.approx(found["models"][1]["miou"] - found["models"][0]["miou"])
    assert any("on 2 labelled images held out" in line for line in said)
    assert "By 2 labelled target images that were held out" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("setting", ["training.holdout=0.5", "training.cross_fit=2"])
def test_classes_that_labels_cannot_show_are_not_counted_against_a_model(tmp_path, setting):
    """The estimate is what ``evaluate`` says of the same images."""
    labels = described(tmp_path / "few", ("sky", "road"), names=("a", "b", "c", "d"))
    run = tiny_run(tmp_path / "run", labels=labels, evaluation=None, overrides=("stages.adapt.steps=1", setting))
    results, sides = read_results(run), read_json(run / "labels.json", "")
    said = {one["name"]: one["miou"] for one in (results.get("held_out") or results["cross_fit"])["models"]}
    names = sides.get("held_out") or sides["taught"]
    (tmp_path / "few/held.txt").write_text("\n".join(names))
    with (tmp_path / "few/dataset.yaml").open("a") as file:
        file.write("splits: {held: {file: held.txt}}\n")
    found = api.evaluate(run / "source_model", f"{labels}@held")
    assert found["iou"]["car"] is None
    assert next(iter(said.values())) == pytest.approx(found["miou"])


def test_a_holdout_without_labels_is_refused(tmp_path):
    with pytest.raises(SegRefineryError, match="no labels to hold out"):
        tiny_run(tmp_path / "run", overrides=("training.holdout=0.4",))


# -- cross-fitting -----------------------------------------------------------------------------------------------------

PARTS = ("training.cross_fit=2",)


def test_each_image_is_scored_by_a_model_that_did_not_learn_it(tmp_path, taught, batches, monkeypatch):
    scored, evaluate = [], Scorer.evaluate

    def told(scorer, network, role, *rest):
        if role == HELD_OUT:
            images = scorer.sets.held_out
            scored.append([int(images.name(index)[-5:]) for index in range(len(images))])
        return evaluate(scorer, network, role, *rest)

    monkeypatch.setattr(Scorer, "evaluate", told)
    said = []
    run = tiny_run(tmp_path / "run", labels=LABELS, say=said.append, overrides=PARTS)
    assert same(weights(run), weights(taught))  # the run itself is as it was
    adapted = [batch for name, batch in batches if name == "adapt"]
    assert len(adapted) == 3 * 5
    assert not any(name == "source" for name, _ in batches[4:])  # taken from the run
    assert sorted(scored[0] + scored[2]) == [0, 1, 2]
    for part, own in enumerate((scored[0], scored[2]), start=1):
        learned = 3 - len(own)  # as many pictures teach, by their places among themselves
        seen = {place for batch in adapted[5 * part : 5 * part + 5] for place in batch.labeled_target.index.tolist()}
        assert seen == set(range(learned))
    found = json.loads((run / "results.json").read_text())["cross_fit"]
    assert (found["images"], [one["name"] for one in found["models"]]) == (3, ["source-only", "adapted"])
    assert any("on 3 labelled images, each held out in one of 2 parts" in line for line in said)
    assert "each scored by another one that was trained the same way without it" in (run / "report.html").read_text()
    assert {path.name for path in (run / "cross_fit").iterdir()} == {"1.npz", "2.npz"}


def test_cross_fitting_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    steps, step = iter(range(100)), loop.one_step

    def mortal(*arguments):
        if next(steps) == 4 + 5 + 5 + 2:
            raise Killed
        return step(*arguments)

    monkeypatch.setattr(loop, "one_step", mortal)
    with pytest.raises(Killed):
        tiny_run(tmp_path / "run", labels=LABELS, overrides=PARTS)
    monkeypatch.setattr(loop, "one_step", step)
    run = tiny_run(tmp_path / "run", labels=LABELS, overrides=PARTS, resume=True)
    whole = tiny_run(tmp_path / "whole", labels=LABELS, overrides=PARTS)
    one, other = (json.loads((each / "results.json").read_text())["cross_fit"] for each in (run, whole))
    assert one == other


@pytest.mark.parametrize(
    ("labels", "overrides", "said"),
    [
        (None, PARTS, "no labels to score by"),
        (LABELS, ("training.cross_fit=1",), "one part leaves no labels"),
        (LABELS, ("training.cross_fit=4",), "4 parts of 3 labelled images; set 3 or fewer"),
        (LABELS, (*PARTS, "training.holdout=0.5"), "set one of both"),
    ],
)
def test_cross_fitting_that_cannot_be(tmp_path, labels, overrides, said):
    with pytest.raises(SegRefineryError, match=said):
        tiny_run(tmp_path / "run", labels=labels, overrides=overrides)
    assert not (tmp_path / "run" / "stages").exists()


def test_several_evaluation_sets_are_scored_each(tmp_path):
    other, said = "scenes:fog,count=2,size=32x64@test", []
    run = tiny_run(tmp_path / "run", evaluation=[TEST, other], say=said.append)
    found = json.loads((run / "results.json").read_text())["adapted"]
    assert list(found["sets"]) == [TEST, other]
    pixels = [each["images_pixels"] for each in found["sets"].values()]
    assert sum(pixels) == found["images_pixels"]
    assert any(f"on {TEST}, " in line and f"on {other})" in line for line in said)
    assert f">{other}</th>" in (run / "report.html").read_text(encoding="utf-8")
    again = api.evaluate(run, [TEST, other])
    assert {name: one["miou"] for name, one in again["sets"].items()} == {
        name: one["miou"] for name, one in found["sets"].items()
    }
    assert again["miou"] == found["miou"]


def test_parts_are_apart_and_equal_pictures_together(tmp_path):
    night = open_dataset(NIGHT)
    copies = open_dataset(written(tmp_path / "copies", night, [0, 1, 2, 3, 4]))
    twice = open_dataset(f"{NIGHT} + {copies.reference}")
    digests = pixel_digests(twice)
    turns = parts_in_turn(twice, 3, seed=1)
    assert sum(len(own) for _, own in turns) == len(twice)
    for others, own in turns:
        assert len(others) + len(own) == len(twice)
        assert not set(pixel_digests(others)) & set(pixel_digests(own))
        assert set(pixel_digests(others)) | set(pixel_digests(own)) == set(digests)
