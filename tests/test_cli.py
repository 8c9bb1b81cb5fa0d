"""The commands: help, one-line errors with exit code 2, and every verb on a folder with odd files in it."""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from data.pictures import index_png, picture, raw_png
from runs import DAY, NIGHT, TEST, TINY, command
from segrefinery import cli
from segrefinery.terminal import going_on

ODD = ("a b", 'it\'s "quoted"', "<script>alert(1)<", "naïve 图", "ünïcode & more")


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a command as a user does -> exit code, what it said, what it complained of."""
    return partial(command, monkeypatch, capsys)


def test_the_version_is_said(call):
    assert call("--version") == (0, f"segrefinery {version('segrefinery')}\n", "")


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    """Target images with odd names, of several sizes, one grey, one RGBA and one of 16 bits."""
    folder = tmp_path_factory.mktemp("odd") / "my images"
    picture(folder / f"{ODD[0]}.png", (40, 64), 60)
    picture(folder / f"{ODD[1]}.jpg", (48, 64), 90)
    picture(folder / f"{ODD[2]}.png", (32, 64), 120, "L")
    picture(folder / f"{ODD[3]}.png", (32, 48), 150, "RGBA")
    raw_png(folder / f"{ODD[4]}.png", np.full((36, 60, 3), 30000), bits=16)
    return folder


def tiny(output: Path, source: object = DAY, target: object = NIGHT, *more: object) -> list[object]:
    overrides = (*TINY, "stages.source.steps=2", "stages.adapt.steps=2")
    given = [part for override in overrides for part in ("--set", override)]
    return ["adapt", "-s", source, "-t", target, "-o", output, "--scale", "small", *given, *more]


def labelled(root: Path, names: tuple[str, ...] = ("1", "2"), size=(32, 48), classes="[road, car]") -> Path:
    """A folder data set: images, masks of two classes, a dataset.yaml."""
    ids = np.zeros(size, np.uint8)
    ids[: size[0] // 2] = 1
    for name in names:
        picture(root / "images" / f"{name}.png", size)
        index_png(root / "masks" / f"{name}.png", ids)
    text = f"images: images/{{name}}.png\nmasks: masks/{{name}}.png\nclasses: {classes}\n"
    (root / "dataset.yaml").write_text(text, encoding="utf-8")
    return root


COMMANDS = sorted(command.name or command.callback.__name__ for command in cli.app.registered_commands)  # pyright: ignore


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(call, command):
    code, said, _ = call(*([command] if command else []), "--help")
    assert code == 0
    assert "Usage" in said
    if command in ("adapt", "check", "evaluate", "predict"):
        assert "PATH[@SPLIT]" in said
    if not command:
        assert all(each in said for each in COMMANDS)


@pytest.fixture(scope="module")
def run(odd, tmp_path_factory):
    """A run that adapts from scenes to the odd images."""
    folder = tmp_path_factory.mktemp("runs") / "a run"
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "argv", ["segrefinery", *map(str, tiny(folder, DAY, odd, "--eval", TEST))])
    with patch.context(), pytest.raises(SystemExit) as stop:
        cli.main()
    patch.undo()
    assert not stop.value.code
    return folder


def test_adapt_to_odd_files_leaves_a_safe_report(run):
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    assert (run / "results.json").exists()


def test_predict_and_pseudo_label_keep_sizes_and_overwrite_nothing(call, run, odd, tmp_path):
    code, said, _ = call("predict", run, odd, "-o", tmp_path / "seen")
    assert (code, "5 images" in said) == (0, True)
    code, _, _ = call("pseudo-label", run, odd, "-o", tmp_path / "labels", "--threshold", 0.2)
    assert code == 0
    sizes = {Image.open(path).size for path in (tmp_path / "labels").rglob("*.png")}
    assert sizes == {(64, 40), (64, 48), (64, 32), (48, 32), (60, 36)}


def test_a_window_is_used_and_a_wrong_one_named(call, run, odd, tmp_path):
    def pixels(folder, *options):
        code, said, complaint = call("predict", run, odd, "-o", tmp_path / folder, *options)
        assert code == 0, (said, complaint)
        return [np.asarray(Image.open(path)) for path in sorted((tmp_path / folder).glob("*.confidence.png"))]

    whole, seen = pixels("whole"), pixels("windows", "--window", "16x16")
    assert [one.shape for one in whole] == [one.shape for one in seen]
    assert any((one != other).any() for one, other in zip(whole, seen, strict=True))
    for wrong in ("16", "16,16", "0x16"):
        code, _, complaint = call("evaluate", run, "--on", TEST, "--window", wrong)
        assert (code, "HEIGHTxWIDTH" in complaint) == (2, True)


def test_results_of_another_size(call, run, odd, tmp_path):
    assert call("predict", run, odd, "-o", tmp_path / "seen", "--factor", 2)[0] == 0
    sizes = {Image.open(path).size for path in (tmp_path / "seen").glob("*.confidence.png")}
    assert sizes == {(128, 80), (128, 96), (128, 64), (96, 64), (120, 72)}


def test_an_image_that_cannot_be_read_costs_no_other(call, run, tmp_path):
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png", (32, 48))
    (tmp_path / "in" / "b.png").write_bytes(b"no picture")
    code, said, complaint = call("predict", run, tmp_path / "in", "-o", tmp_path / "out")
    assert (code, "2 images written" in said, "b.png" in complaint) == (2, True, True)
    assert len(list((tmp_path / "out").glob("*.overlay.png"))) == 2
    listed = (tmp_path / "out" / "files.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in listed] == ["number", "0", "2"]  # its place stays free


def test_a_folder_that_cannot_be_written_and_a_device_that_is_not_there(call, run, odd):
    for verb in ("predict", "pseudo-label"):
        code, _, complaint = call(verb, run, odd, "-o", "/proc/none")
        assert (code, complaint.startswith("error: /proc/none")) == (2, True), complaint
        assert "cannot be written" in complaint
    for device, words in (("gpu", "write cpu"), ("cuda", "no CUDA GPU")):
        code, _, complaint = call("evaluate", run, "--on", TEST, "--device", device)
        assert (code, words in complaint) == (2, True), complaint


def test_evaluate_report_and_recipes(call, run):
    code, said, _ = call("evaluate", run, "--on", TEST)
    assert code == 0
    assert "mIoU" in said
    assert call("report", run)[0] == 0
    code, said, _ = call("recipes")
    assert code == 0
    assert "self_training" in said
    assert "stages:" in call("recipes", "cpsl")[1]


def test_several_data_sets_are_all_scored(call, run, tmp_path):
    few = f"folder:{labelled(tmp_path / 'few')}"
    code, said, complaint = call("evaluate", run, "--on", TEST, "--on", few)
    assert code == 0, complaint
    assert f"{TEST}: mIoU" in said
    assert f"{few}: mIoU" in said
    assert call("evaluate", run, "--on", f"{TEST} + {few}")[1] == said


def test_a_recipe_may_name_the_data_and_the_seed(call, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"extends: self_training\nsource: {DAY}\ntarget: {NIGHT}\nseed: 5\n")
    line = tiny(tmp_path / "run", "", "", "-r", file)
    code, _, complaint = call(*(part for place, part in enumerate(line) if place not in (1, 2, 3, 4)))
    assert code == 0, complaint
    kept = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert (kept["source"], kept["target"], kept["seed"]) == (DAY, NIGHT, 5)
    code, said, _ = call("check", NIGHT, "-r", file, "--scale", "small")
    assert (code, "source" in said) == (0, True)


def test_compare_ranks_the_models_of_runs_by_what_their_names_differ_in(call, run):
    code, said, complaint = call("compare", run, "-n", 2)
    assert code == 0, complaint
    table, sentences = said.split("trust: the score that ranks", 1)
    assert re.search(r"│ a run +│ \d\.\d{3}", table)  # without the folder that the names have in common
    assert f"{run}: " in sentences.replace("\n", "")
    assert call("compare", run.parent / "absent")[0] == 2


def test_audit_writes_tasks_for_both_tools(call, run, odd, tmp_path):
    code, said, complaint = call("audit", run, odd, "-n", 2, "-o", tmp_path / "audit")
    assert code == 0, complaint
    assert "2 images" in said
    assert {"cvat.zip", "cvat_labels.json", "label_studio.json"} <= {
        path.name for path in (tmp_path / "audit").iterdir()
    }


def test_check(call, odd):
    code, said, _ = call("check", DAY, odd, "--scale", "small")
    assert code == 0, said
    assert "5" in said


def test_labels_and_several_sources_from_the_command_line(call, odd, tmp_path):
    taught = labelled(tmp_path / "taught", ("1", "2", "3"))
    several = (
        "-s",
        f"3 of folder:{labelled(tmp_path / 'more', ('4', '5'))}",
        "-t",
        NIGHT,
        "--labels",
        f"folder:{taught}",
    )
    code, said, complaint = call(*tiny(tmp_path / "run", DAY, odd, *several, "--eval", TEST))
    assert code == 0, complaint
    assert "labels: 3 images teach" in said
    assert "(2 images, 75 %)" in said
    assert (tmp_path / "run" / "labels.json").exists()
    code, said, _ = call("check", DAY, odd, "--labels", f"folder:{taught}", "--scale", "small")
    assert code == 0, said
    assert "labels" in said
    code, _, complaint = call(
        *tiny(tmp_path / "no", DAY, odd, "--labels", f"folder:{taught}", "--eval", f"folder:{taught}")
    )
    assert (code, "pixel for pixel" in complaint) == (2, True)
    code, said, _ = call("check", DAY, odd, "--labels", f"folder:{taught}", "--eval", f"folder:{taught}")
    assert (code, "pixel for pixel" in said) == (2, True)


def mistakes(root: Path) -> dict[str, tuple[list[object], str]]:
    """Commands that must fail, and what the error must name."""
    out = root / "out"
    good, empty = labelled(root / "good"), root / "empty"
    empty.mkdir()
    (root / "text").mkdir()
    (root / "text" / "not an image.png").write_text("hello")
    wrong_size = labelled(root / "wrong_size")
    index_png(wrong_size / "masks" / "2.png", np.zeros((9, 9), np.uint8))
    unknown = labelled(root / "unknown")
    index_png(unknown / "masks" / "1.png", np.full((32, 48), 77, np.uint8))
    index_png(unknown / "masks" / "2.png", np.full((32, 48), 77, np.uint8))
    truncated = labelled(root / "truncated")
    for name in ("1", "2"):
        path = truncated / "images" / f"{name}.png"
        path.write_bytes(path.read_bytes()[:40])
    strange = labelled(root / "strange", classes="[giraffe, zebra]")
    folder = "folder:{}".format
    (root / "pipes").mkdir()
    for name in ("dataset.yaml", "recipe.yaml", "town.json"):
        os.mkfifo(root / "pipes" / name)
    (root / "named.yaml").write_text('extends: self_training\nstages: {"a:b:\\nc": {kind: supervised, steps: 1}}\n')
    return {
        "missing": (tiny(out, DAY, root / "nowhere"), "nowhere"),
        "empty": (tiny(out, DAY, empty), "empty"),
        "no image": (tiny(out, DAY, root / "text"), "not an image.png"),
        "truncated": (tiny(out, folder(truncated), good / "images"), r".png"),
        "another size": (tiny(out, folder(wrong_size), good / "images"), "2.png"),
        "unknown ids": (tiny(out, folder(unknown), good / "images"), "77"),
        "no target": (["adapt", "-s", DAY, "-o", out], "target: name the images"),
        "two seeds": (tiny(out, DAY, NIGHT, "--seed", "1", "--set", "seed=2"), "--seed says 1"),
        "no common class": (tiny(out, DAY, NIGHT, "--eval", folder(strange)), "class"),
        "unlabelled source": (tiny(out, good / "images", NIGHT), "images"),
        "unknown data": (tiny(out, "cityscape:/data", NIGHT), "cityscape"),
        "unknown recipe": (tiny(out, DAY, NIGHT, "-r", "self_trainin"), "Did you mean"),
        "unknown setting": (tiny(out, DAY, NIGHT, "--set", "data.bach=2"), "data.bach"),
        "no run": (["evaluate", empty, "--on", TEST], "no trained model"),
        "no report": (["report", empty], "empty"),
        "no masks": (["pseudo-label", empty, NIGHT, "-o", out], "no trained model"),
        "target is source": (tiny(out, folder(good), folder(good)), "nothing to adapt to"),
        "late image": (tiny(out, DAY, truncated / "images"), ".png"),
        "late mask": (tiny(out, DAY, NIGHT, "--eval", folder(unknown)), "77"),
        "file as output": (tiny(truncated / "dataset.yaml"), "is a file"),
        "no place": (tiny(Path("/proc/none/run")), "cannot be made"),
        "a pipe of data": (tiny(out, folder(root / "pipes"), NIGHT), "is a pipe or a device"),
        "a pipe of annotations": (tiny(out, f"coco:{root / 'pipes' / 'town.json'}", NIGHT), "is a pipe or a device"),
        "a pipe of a recipe": (tiny(out, DAY, NIGHT, "-r", root / "pipes" / "recipe.yaml"), "is a pipe or a device"),
        "a name of two lines": (tiny(out, DAY, NIGHT, "-r", root / "named.yaml"), "stages.a:b: c: the name becomes"),
        "a width beyond reason": (tiny(out, DAY, NIGHT, "--set", "model.options={width: 100000000}"), "width"),
        "workers beyond reason": (tiny(out, DAY, NIGHT, "--set", "data.workers=100000000"), "data.workers"),
        "sides beyond reason": (tiny(out, DAY, NIGHT, "--set", "data.crop=[1000000000, 64]"), "crop"),
        "scenes beyond reason": (tiny(out, "scenes:day,count=99999999999", NIGHT), "ask for 1 to"),
        "a run among its images": (tiny(good / "images/run", DAY, good / "images"), "whose images are read"),
        "a run where a description looks": (tiny(good / "images/run", folder(good), NIGHT), "whose images are read"),
    }


MISTAKES = (
    "missing", "empty", "no image", "truncated", "another size", "unknown ids", "no common class", "unlabelled source",
    "unknown data", "unknown recipe", "unknown setting", "no run", "no report", "no masks", "target is source",
    "no target", "two seeds", "late image", "late mask", "file as output", "no place", "a pipe of data",
    "a pipe of annotations",
    "a pipe of a recipe", "a name of two lines", "a width beyond reason", "workers beyond reason",
    "sides beyond reason", "scenes beyond reason", "a run among its images", "a run where a description looks",
)  # fmt: skip


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(call, tmp_path, what):
    command, named = mistakes(tmp_path)[what]
    code, said, complaint = call(*command)
    assert code == 2, (said, complaint)
    assert complaint.startswith("error: ")
    assert complaint.count("\n") == 1
    assert "Traceback" not in complaint
    assert named in complaint
    assert not (tmp_path / "out" / "stages").exists()  # before anything is trained


def test_debug_shows_the_traceback(call, tmp_path):
    with pytest.raises(Exception, match="nowhere"):
        call("--debug", *tiny(tmp_path / "out", DAY, tmp_path / "nowhere"))


@pytest.mark.parametrize("what", ["a class absent", "one image"])
def test_what_is_odd_but_right_is_done(call, tmp_path, what):
    source = labelled(tmp_path / "source", ("1",) if what == "one image" else ("1", "2"))
    target = labelled(tmp_path / "target", ("3", "4")) / "images"
    if what == "a class absent":
        labelled(source, classes="[road, car, giraffe]")
    code, said, complaint = call(*tiny(tmp_path / "run", f"folder:{source}", target))
    assert code == 0, (said, complaint)


def test_no_name_of_a_class_is_taken_for_markup(call, tmp_path):
    source = labelled(tmp_path / "source", classes='["lane [dashed]", "lane [/b]"]')
    target = labelled(tmp_path / "target", ("3", "4")) / "images"
    code, said, complaint = call(*tiny(tmp_path / "run", f"folder:{source}", target))
    assert code == 0, (said, complaint)
    code, said, complaint = call("evaluate", tmp_path / "run", "--on", f"folder:{source}")
    assert (code, "lane [dashed]" in said, "lane [/b]" in said) == (0, True, True), complaint
    code, said, complaint = call("check", f"folder:{source}", target, "--set", "data.crop=[32, 32]")
    assert (code, "lane [dashed]" in said, "lane [/b]" in said) == (0, True, True), complaint


def test_no_name_orders_the_terminal_about(call, run, tmp_path):
    labelled(tmp_path / "source", classes='["\\e[2Jroad", car]')
    code, _, complaint = call("check", f"folder:{tmp_path / 'source'}", NIGHT)
    assert (code, "\x1b" in complaint, r"'\x1b[2Jroad' is no name" in complaint) == (2, False, True), complaint
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a\x1b[2J.png").write_bytes(b"no picture")
    code, _, complaint = call("predict", run, tmp_path / "in", "-o", tmp_path / "out")
    assert (code, "\x1b" in complaint, complaint.count("\n")) == (2, False, 1), complaint
    assert "none of its 1 images can be read" in complaint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (lambda: signal.raise_signal(signal.SIGINT), 130, "stopped\n"),
        (lambda: signal.raise_signal(signal.SIGTERM), 143, "stopped\n"),
        (lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left", "x.json")), 2, "x.json: No space left"),
        (lambda: (_ for _ in ()).throw(MemoryError), 2, "memory of this machine"),
    ],
)
def test_what_the_system_says_is_one_line(call, monkeypatch, tmp_path, failure, code, words):
    def fail(*arguments):
        for _ in failure() or ():
            pass

    monkeypatch.setattr(cli, "refuse_missing", fail)
    ended, _, complaint = call("evaluate", tmp_path, "--on", TEST)
    assert (ended, words in complaint, complaint.count("\n")) == (code, True, 1), complaint


def test_a_stopped_run_says_how_to_go_on(call, monkeypatch, tmp_path):
    monkeypatch.setattr("segrefinery.verbs.adapt.adapt", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    ended, _, complaint = call(*tiny(tmp_path / "run"))
    assert (ended, complaint) == (143, "stopped; the same command with --resume goes on from the last checkpoint\n")
    monkeypatch.setattr("segrefinery.verbs.report.report", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    assert call("report", "demo") == (130, "", "stopped\n")  # a folder of that name is no command
    assert going_on(["segrefinery", "--debug", "predict", "demo"]) == "; the same command does what is missing"


def test_a_name_too_long_for_a_file_is_one_line(call, tmp_path):
    code, _, complaint = call("evaluate", tmp_path / ("x" * 300), "--on", TEST)
    assert (code, "File name too long" in complaint, complaint.count("\n")) == (2, True, 1), complaint


def test_of_several_processes_one_does_what_is_not_training(call, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "MAIN", False)
    monkeypatch.setenv("RANK", "1")
    assert call("evaluate", tmp_path / "none", "--on", TEST) == (0, "", "")


def test_what_modules_log_is_said_and_warnings_are_complaints(call, monkeypatch, tmp_path):
    def report(run):
        log = logging.getLogger("segrefinery.stages.some")
        log.info("round %d sees more of the bus", 2)
        log.warning("its licence is another")
        return run / "report.html"

    monkeypatch.setattr("segrefinery.verbs.report.report", report)
    for _ in range(2):  # each command by itself
        code, said, error = call("report", tmp_path)
        assert (code, error) == (0, "warning: its licence is another\n")
        assert said.splitlines()[0] == "round 2 sees more of the bus"
        assert said.count("round") == 1


@pytest.mark.parametrize("option", ["--eval", "--labels", "--source", "--target"])
def test_an_empty_name_is_not_dropped(call, tmp_path, option):
    # "$UNSET" of a shell: a run without the labels, the scores or the source that somebody meant would look like one.
    named = {"--source": DAY, "--target": NIGHT, option: ""}
    code, _, complaint = call("adapt", *(text for pair in named.items() for text in pair), "-o", tmp_path / "run")
    assert code == 2
    assert "name of a data set is empty" in complaint
    assert not (tmp_path / "run").exists()
    if option != "--source":
        last = (option, "") if option != "--target" else ()
        code, _, complaint = call("check", DAY, "" if option == "--target" else NIGHT, *last)
        assert (code, "is empty" in complaint) == (2, True)
