"""At which size images are read in training, and what is odd about it, is said before and as a run begins."""

import warnings

import segrefinery as api
from data.pictures import picture
from segrefinery.data.transforms import DataSettings
from segrefinery.verbs.zoom import odd_training


def test_enlarged_images_and_empty_crops_are_said():
    enlarged = odd_training(DataSettings(short_side=512, crop=(512, 512)), (20, 24))
    assert enlarged == [
        "an image of 24 x 20 is enlarged 26 times, to 614 x 512, which shows no more of it; set a smaller "
        "data.short_side and data.crop, and it trains faster"
    ]
    padded = odd_training(DataSettings(crop=(64, 128)), (32, 64))  # 32/64 * 64/128 is filled
    assert padded == [
        "75 % of a training crop of 64 x 128 is padding with an image of 64 x 32, which is read at 64 x 32; set a "
        "smaller data.crop, or data.short_side to enlarge the images"
    ]
    assert odd_training(DataSettings(crop=(64, 128)), (33, 128)) == []  # 52 %
    assert odd_training(DataSettings(short_side=64, crop=(64, 64)), (32, 64)) == []  # twice
    assert odd_training(DataSettings(crop=(64, 64), scale=(0.25, 0.75)), (64, 64)) != []  # 25 % in the middle


def test_check_says_at_which_size_images_are_read(tmp_path):
    picture(tmp_path / "camera/a.png", (32, 64))
    picture(tmp_path / "camera/b.png", (36, 64))
    found = api.check("scenes:day,count=2,size=96x192", tmp_path / "camera", scale="small")
    assert found.read_at == {"source": (192, 384), "target": (192, 384)}
    (problem,) = (each for each in found.data.problems if each.field == "sizes")
    assert (problem.role, problem.severity) == ("target", "warning")
    assert problem.message.startswith("an image of 64 x 32 is enlarged 6 times, to 384 x 192")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        api.adapt(
            "source_only", "scenes:day,count=2,size=96x192", tmp_path / "camera", tmp_path / "run", scale="small",
            overrides=["stages.source.steps=1", "data.batch=1", "model={name: small, options: {width: 16}}"],
        )  # fmt: skip
    assert [str(one.message) for one in caught if "enlarged" in str(one.message)] == [
        f"{tmp_path / 'camera'}: {problem.message}; {problem.remedy}"
    ]
