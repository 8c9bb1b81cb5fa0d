"""The runner of studies: what a study file may say, what is run and what is not, and the numbers of its tables."""

import copy
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from segrefinery.core.errors import SegRefineryError
from segrefinery.data.datasets import open_dataset

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SHIPPED = sorted((BENCHMARKS / "studies").glob("*.yaml"))
GOOD = {
    "scale": "small",
    "seeds": [0, 1],
    "baseline": "self_training",
    "tasks": {"night": {"source": "scenes:day@train", "target": "scenes:night@train", "evaluation": "scenes:night"}},
    "rows": {"self_training": None, "longer": {"recipe": "self_training", "set": ["stages.adapt.steps=800"]}},
}
REMOVED = object()
COPY = "import shutil, sys; shutil.copytree(sys.argv[1], sys.argv[2], dirs_exist_ok=True)"
ENDS = {
    "raises": "print('step 1'); raise RuntimeError('the labels\\nhave collapsed')",
    "is killed": "import os, signal; print('step 1', flush=True); os.kill(os.getpid(), signal.SIGKILL)",
    "leaves nothing": "print('step 1')",
    "says nothing": "raise SystemExit(3)",
}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module that keeps everything below ``tmp_path`` and, in place of a training, copies ``tmp_path /
    'run'``. ``ran`` lists the cells that were started."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("study_under_test", BENCHMARKS / "studies" / "study.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up there
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "CELLS", tmp_path / "cells")
    module.ran = []

    def command(cell: Any) -> list[str]:
        module.ran.append((cell.row, cell.seed))
        if cell.row == "cannot start":
            raise ValueError("no such | thing")
        script = ENDS.get(cell.row, COPY)
        return [sys.executable, "-S", "-c", script, str(tmp_path / "run"), str(cell.folder)]

    monkeypatch.setattr(module.Cell, "command", command)
    pretend_run(tmp_path / "run", [[[3, 1], [1, 3]]])
    return module


def pretend_run(folder: Path, per_image: list[Any], stage: str = "adapt") -> Path:
    """What a finished run leaves, as far as studies read it."""
    scores = {"stage": stage, "miou": 0.6, "iou": {"road": 0.6, "sky": 0.6}, "pixel_accuracy": 0.8}
    (folder / "evaluation").mkdir(parents=True, exist_ok=True)
    verdict = {"word": "helped", "difference": 0.1, "reasons": ["steadier"]}
    stages = {"source": scores | {"miou": 0.5}, stage: scores}
    (folder / "results.json").write_text(json.dumps({"adapted": scores, "stages": stages, "verdict": verdict}))
    record = {"kind": "train", "stage": stage, "seconds_per_step": 0.25}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    np.savez(folder / "evaluation" / f"{stage}.npz", per_image=np.array(per_image))
    return folder


def written(tmp_path: Path, contents: dict[str, Any]) -> Path:
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(contents, sort_keys=False))
    return path


def called(study: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of the command."""
    monkeypatch.setattr(sys, "argv", ["study.py", *map(str, words)])
    try:
        study.one_line_errors(study.command)
    except SystemExit as error:
        return int(error.code or 0)
    return 0


# -- the study file ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_studies_are_read(study: ModuleType, path: Path):
    described, cells = study.read_study(path)
    assert {cell.task for cell in cells} == set(described["tasks"])
    assert {cell.row for cell in cells} == set(described["rows"])


def test_there_are_shipped_studies():
    assert len(SHIPPED) > 5


BAD = {
    "row that another is held against": ("rows.longer.against", "nothing", "row 'longer': against:", "self_training"),
    "recipe that is the row's name": ("rows.self_trainig", None, "row 'self_trainig': recipe", "'self_training'?"),
    "recipe of a row": ("rows.longer.recipe", "self_trainin", "row 'longer': recipe:", "'self_training'?"),
    "recipe that is no text": ("rows.longer.recipe", 5, "row 'longer': recipe:", "write text"),
    "scale": ("scale", "smal", "row 'self_training': scale:", "'small'?"),
    "scale that is no text": ("scale", 3, "scale:", "write text"),
    "override of a row": ("rows.longer.set", ["stages.adapt.stepps=3"], "row 'longer': set:", "steps"),
    "value of an override": ("rows.longer.set", ["stages.adapt.steps=many"], "row 'longer': set:", "'many'"),
    "override without a value": ("rows.longer.set", ["stages.adapt.steps"], "row 'longer': set:", "a.b.c=value"),
    "override that is no YAML": ("rows.longer.set", ["stages.adapt.steps=[3"], "row 'longer': set:", "not valid YAML"),
    "override of the study": ("set", ["training.stepps=3"], "row 'self_training': set:", "valid keys"),
    "set that is no list": ("rows.longer.set", "stages.adapt.steps=3", "row 'longer': set:", "write a list"),
    "tasks of a row": ("rows.longer.tasks", ["nigth"], "row 'longer': tasks:", "'night'?"),
    "tasks of a row, none": ("rows.longer.tasks", [], "row 'longer': tasks:", "name a task"),
    "tasks of a row, no list": ("rows.longer.tasks", "night", "row 'longer': tasks:", "write a list"),
    "baseline": ("baseline", "self-training", "baseline:", "'self_training'?"),
    "baseline left out": ("baseline", REMOVED, "baseline:", "missing"),
    "source left out": ("tasks.night.source", REMOVED, "task 'night': source:", "missing"),
    "target left out": ("tasks.night.target", REMOVED, "task 'night': target:", "missing"),
    "evaluation left out": ("tasks.night.evaluation", REMOVED, "task 'night': evaluation:", "missing"),
    "evaluation that is no text": ("tasks.night.evaluation", None, "task 'night': evaluation:", "write text"),
    "task without anything": ("tasks.night", None, "task 'night':", "source, target, evaluation"),
    "key of the study": ("base", "self_training", "unknown key 'base'", "'baseline'?"),
    "key of a row": ("rows.longer.sets", [], "row 'longer': unknown key 'sets'", "'set'?"),
    "key of a task": ("tasks.night.eval", "scenes:night", "task 'night': unknown key 'eval'", "evaluation"),
    "seed that is no list": ("seeds", 3, "seeds:", "[0, 1, 2]"),
    "seeds left out": ("seeds", REMOVED, "seeds:", "missing"),
    "seeds that are text": ("seeds", ["0", "1"], "seeds:", "[0, 1, 2]"),
    "seeds that are yes and no": ("rows.longer.seeds", [True], "row 'longer': seeds:", "[0, 1, 2]"),
    "seeds below zero": ("rows.longer.seeds", [-1], "row 'longer': seeds:", "[0, 1, 2]"),
    "seeds, none": ("tasks.night.seeds", [], "task 'night': seeds:", "[0, 1, 2]"),
    "seed twice": ("seeds", [0, 0], "seeds:", "different"),
    "no rows": ("rows", None, "rows:", "at least one"),
    "name that YAML reads as no": ("rows", {False: None}, "rows:", "in quotes"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_line_and_nothing_runs(study: ModuleType, tmp_path: Path, monkeypatch, capsys, case: str):
    field, value, place, remedy = BAD[case]
    contents = copy.deepcopy(GOOD)
    *parents, last = field.split(".")
    here = contents
    for part in parents:
        here = here[part]
    here[last] = value
    if value is REMOVED:
        del here[last]
    path = written(tmp_path, contents)

    assert called(study, monkeypatch, "run", path) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {path}: {place}")
    assert remedy in printed.removeprefix(f"error: {path}: {place}")
    assert printed.count("\n") == 1
    assert study.ran == []


@pytest.mark.parametrize(("text", "reason"), [("seeds: [0", "not valid YAML"), ("- 3", "mapping"), (None, "be read")])
def test_a_file_that_is_no_study(study: ModuleType, tmp_path: Path, text: str | None, reason: str):
    path = tmp_path / "trial.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SegRefineryError, match=f"trial.yaml: .*{reason}"):
        study.read_study(path)


# -- running ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_crash_is_kept_with_its_reason_and_the_rest_go_on(study: ModuleType, tmp_path, monkeypatch, capsys, jobs):
    bad = ["cannot start", *ENDS]
    contents = GOOD | {"seeds": [0]}
    contents["rows"] = {row: {"recipe": "self_training", "set": [f"seed={n}"]} for n, row in enumerate(bad, start=1)}
    contents["rows"] |= GOOD["rows"]
    path = written(tmp_path, contents)

    assert called(study, monkeypatch, "run", path, "--jobs", jobs) == 1
    assert sorted(study.ran) == sorted((row, 0) for row in contents["rows"])
    page = (tmp_path / "results" / "trial.md").read_text()
    assert page in capsys.readouterr().out
    assert "| self_training | 1 |  | 60.0 | 80.0 | 60.0 |  |  | helped | +10.0 | 250 |" in page
    assert "| longer | 1 |  | 60.0 | 80.0 | 60.0 | +0.0 [+0.0, +0.0] |  | helped | +10.0 | 250 |" in page
    assert page.splitlines()[-1] == (
        "Not finished: cannot start (seed 0: ValueError: no such | thing); raises (seed 0: have collapsed); "
        "is killed (seed 0: killed by signal 9); leaves nothing (seed 0: ended without results.json); "
        "says nothing (seed 0: exit code 3)."
    )
    lines = [json.loads(line) for line in (tmp_path / "results" / "trial.jsonl").read_text().splitlines()]
    assert {tuple(line["stages"].items()) for line in lines if "error" not in line} == {
        (("source", 0.5), ("adapt", 0.6))
    }
    assert {line["row"] for line in lines} == set(contents["rows"])
    (kept,) = (line for line in lines if line["row"] == "cannot start")
    assert (kept["task"], kept["seed"], kept["error"]) == ("night", 0, "ValueError: no such | thing")


def test_results_that_cannot_be_read_are_a_failure_of_their_cell(study: ModuleType, tmp_path, monkeypatch):
    (tmp_path / "run" / "evaluation" / "adapt.npz").unlink()
    path = written(tmp_path, GOOD | {"seeds": [0]})
    assert called(study, monkeypatch, "run", path) == 1
    assert len(study.ran) == 2
    assert "longer (seed 0: FileNotFoundError: " in (tmp_path / "results" / "trial.md").read_text()


def test_a_failure_that_cannot_be_written_does_not_end_the_others(study: ModuleType, tmp_path, monkeypatch, capsys):
    def full(cell: Any, found: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(study, "keep", full)
    path = written(tmp_path, GOOD | {"seeds": [0]})
    assert called(study, monkeypatch, "run", path) == 1
    assert len(study.ran) == 2
    assert capsys.readouterr().out.count("FAILED: OSError: no space left") == 2


def test_a_failed_cell_is_run_again(study: ModuleType, tmp_path: Path, monkeypatch):
    path = written(tmp_path, GOOD)
    monkeypatch.setitem(ENDS, "longer", "raise RuntimeError('once')")
    assert called(study, monkeypatch, "run", path) == 1
    monkeypatch.delitem(ENDS, "longer")
    study.ran.clear()
    assert called(study, monkeypatch, "run", path) == 0
    assert study.ran == [("longer", 0), ("longer", 1)]
    assert "Not finished" not in (tmp_path / "results" / "trial.md").read_text()


def test_only_failures_among_the_chosen_cells_count(study: ModuleType, tmp_path: Path, monkeypatch):
    path = written(tmp_path, GOOD)
    monkeypatch.setitem(ENDS, "longer", "raise RuntimeError('once')")
    assert called(study, monkeypatch, "run", path) == 1
    assert called(study, monkeypatch, "run", path, "--only", "self_training seed 1") == 0
    assert called(study, monkeypatch, "table", path) == 0


def test_a_finished_cell_is_not_run_again(study: ModuleType, tmp_path: Path, monkeypatch):
    path = written(tmp_path, GOOD)
    assert called(study, monkeypatch, "run", path) == 0
    assert study.ran == [("self_training", 0), ("longer", 0), ("self_training", 1), ("longer", 1)]
    study.ran.clear()
    assert called(study, monkeypatch, "run", path) == 0
    assert study.ran == []
    assert called(study, monkeypatch, "run", path.rename(tmp_path / "other.yaml")) == 0
    assert study.ran == [], "another study takes over the same cells"
    assert (tmp_path / "results" / "other.md").read_text() == (tmp_path / "results" / "trial.md").read_text()


def test_a_cell_whose_settings_changed_is_run_again(study: ModuleType, tmp_path: Path, monkeypatch, capsys):
    assert called(study, monkeypatch, "run", written(tmp_path, GOOD)) == 0
    study.ran.clear()
    contents = copy.deepcopy(GOOD)
    contents["rows"]["longer"]["set"] = ["stages.adapt.steps=801"]
    path = written(tmp_path, contents)
    assert called(study, monkeypatch, "table", path) == 0
    assert "Not finished: longer (seed 0: settings changed, 1: settings changed)." in capsys.readouterr().out
    assert called(study, monkeypatch, "run", path) == 0
    assert study.ran == [("longer", 0), ("longer", 1)]


def test_a_row_is_held_against_a_baseline_of_its_own(study: ModuleType, tmp_path: Path, monkeypatch, capsys):
    contents = copy.deepcopy(GOOD) | {"baseline": "oracle"}
    contents["rows"] = {
        "oracle": None,
        "self_training": None,
        "longer": {**GOOD["rows"]["longer"], "against": "self_training"},
    }
    contents["tasks"]["night"]["oracle"] = "scenes:night@train"
    assert called(study, monkeypatch, "run", written(tmp_path, contents)) == 0
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    at = lines[0].index("against its own baseline [95 %]")
    assert [line[at] for line in lines[2:]] == ["", "", "+0.0 [+0.0, +0.0]"]


@pytest.mark.parametrize(
    ("recipe", "before", "other"),
    [
        (None, "model.bands=3", "model.bands=4"),
        (None, "stages.source.optimizer.bias_factor=1", "stages.source.optimizer.bias_factor=2"),
        (
            "prn",
            "stages.adapt.refine.refinement_network.largest_balance=10",
            "stages.adapt.refine.refinement_network.largest_balance=1",
        ),
    ],
)
def test_a_setting_that_came_later_leaves_the_key_of_what_held_before(
    study: ModuleType, tmp_path: Path, monkeypatch, recipe, before, other
):
    def key(*overrides: str) -> str:
        (cell, *_) = study.read_study(written(tmp_path, GOOD))[1]
        cell.recipe, cell.overrides = recipe or cell.recipe, list(overrides)
        return cell.key

    assert key() == key(before) != key(other)
    kept = key()
    monkeypatch.setattr(study, "CAME_LATER", {})
    assert key() != kept


# -- numbers ----------------------------------------------------------------------------------------------------------

HALF = [[2, 0], [2, 0]]  # IoU 2/4 and 0: 25 %
GOOD_IMAGE = [[3, 1], [1, 3]]  # IoU 3/5 twice: 60 %
PERFECT = [[4, 0], [0, 4]]  # 100 %


def interval(study: ModuleType, pairs: list[tuple[list[Any], list[Any]]]):
    """``paired_interval`` of the images of ours and theirs, a pair for each seed."""
    return sys.modules["lib.intervals"].paired_interval([(np.array(ours), np.array(theirs)) for ours, theirs in pairs])


def test_images_that_are_all_alike_leave_no_interval(study: ModuleType):
    assert interval(study, [([GOOD_IMAGE] * 5, [HALF] * 5)]) == pytest.approx((35, 35))


def test_counts_of_drawn_images_are_added_before_they_are_scored(study: ModuleType):
    """A quarter of the draws take the first image twice (100 - 60), a quarter the second (60 - 25), half of them both:
    [[7, 1], [1, 7]] against [[5, 1], [3, 3]], that is 7/9 less the mean of 5/9 and 3/7, 2/7."""
    found = interval(study, [([PERFECT, GOOD_IMAGE], [GOOD_IMAGE, HALF])])
    assert found == pytest.approx((200 / 7, 40))


def test_two_seeds_span_from_the_one_to_the_other(study: ModuleType):
    found = interval(study, [([GOOD_IMAGE], [GOOD_IMAGE]), ([HALF], [PERFECT])])
    assert found == pytest.approx((-75, 0))


def test_both_get_the_same_images(study: ModuleType):
    images = [HALF, GOOD_IMAGE, PERFECT]
    assert interval(study, [(images, images), (images, images)]) == (0, 0)


def test_intervals_outlive_the_run_folders(study: ModuleType, tmp_path: Path, monkeypatch, capsys):
    path = written(tmp_path, GOOD)
    assert called(study, monkeypatch, "run", path) == 0
    shutil.rmtree(tmp_path / "cells")
    capsys.readouterr()
    assert called(study, monkeypatch, "table", path) == 0
    assert "| +0.0 [+0.0, +0.0] |" in capsys.readouterr().out


def test_without_the_counts_of_every_image_an_interval_is_remembered(study, tmp_path: Path, monkeypatch, capsys):
    path = written(tmp_path, GOOD)
    assert called(study, monkeypatch, "run", path) == 0
    (kept, *_) = sorted((tmp_path / "results" / "counts").rglob("seed1.npz"))
    kept.unlink()
    capsys.readouterr()
    assert called(study, monkeypatch, "table", path) == 0
    assert "| +0.0 |" in capsys.readouterr().out, "no interval is better than one of half the seeds"
    rows = {row: [cell.name for cell in study.read_study(path)[1] if cell.row == row] for row in GOOD["rows"]}
    line = {"ours": rows["longer"], "theirs": rows["self_training"], "interval": [-0.5, 0.25]}
    for points, said in ((0.0, "| +0.0 [-0.5, +0.2] |"), (1.0, "| +0.0 |")):
        remembered = json.dumps(line | {"points": points}) + "\n"
        (tmp_path / "results" / "counts" / "intervals.jsonl").write_text(remembered)
        assert called(study, monkeypatch, "table", path) == 0
        assert said in capsys.readouterr().out


def test_share_of_the_gap_that_is_closed(study: ModuleType):
    mean = {
        "source_only": {0: 0.2, 1: 0.4},
        "oracle": {0: 0.6, 1: 0.8, 2: 0.9},
        "both seeds": {0: 0.3, 1: 0.7},  # mean 0.5 between 0.3 and 0.7
        "one seed": {0: 0.3, 2: 0.9},  # seed 2 is not in source_only: 0.3 between 0.2 and 0.6
        "worse": {0: 0.1, 1: 0.3},
        "none in common": {2: 0.9},
    }
    closed = sys.modules["lib.study_table"].closed
    shares = {row: closed(mean, row) for row in mean}
    assert shares == {
        "source_only": "0 %", "oracle": "100 %", "both seeds": "50 %", "one seed": "25 %", "worse": "-25 %",
        "none in common": "",
    }  # fmt: skip
    # the oracle has fewer seeds: all of the row's count, 0.5 between 0.3 and 0.6
    assert closed({**mean, "oracle": {0: 0.6}}, "both seeds") == "67 %"


def test_no_gap_nothing_closed(study: ModuleType):
    low, high = {0: 0.5}, {0: 0.4}
    assert sys.modules["lib.study_table"].closed({"source_only": low, "row": high}, "row") == ""
    assert sys.modules["lib.study_table"].closed({"source_only": low, "oracle": high, "row": high}, "row") == ""


# -- what is kept ------------------------------------------------------------------------------------------------------

KEEP = """
import subprocess
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from lib.results import keep_line
for seed in range(20):
    for score in (0, seed):
        keep_line(Path(sys.argv[2]), {"task": "night", "row": sys.argv[3], "seed": seed, "miou": score})
"""


def test_two_processes_keep_their_lines_in_one_file(study: ModuleType, tmp_path: Path):
    path = tmp_path / "trial.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", KEEP, BENCHMARKS, path, row]) for row in ("one", "two")]
    assert [writer.wait() for writer in writers] == [0, 0]
    lines = study.read_lines(path)
    assert set(lines) == {("night", row, seed) for row in ("one", "two") for seed in range(20)}
    assert all(line["miou"] == seed for (_, _, seed), line in lines.items()), "the last word counts"
    assert len(path.read_text().splitlines()) == 40


@pytest.mark.parametrize("line", ['{"task": "night", "row"', '{"task": "night"}', "3"])
def test_a_line_that_is_no_cell_is_named(study: ModuleType, tmp_path: Path, line: str):
    path = tmp_path / "trial.jsonl"
    path.write_text('{"task": "night", "row": "one", "seed": 0}\n' + line + "\n")
    with pytest.raises(SegRefineryError, match=r"trial.jsonl, line 2: .*mend the line or remove it"):
        study.read_lines(path)


KEPT = [
    path for path in sorted((BENCHMARKS / "results").rglob("*.jsonl")) if path.parent.name not in ("counts", "trust")
]


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_the_shipped_results_are_read(study: ModuleType, path: Path):
    lines = study.read_lines(path)
    assert len(lines) == len(path.read_text().splitlines())
    assert all(0 < line["miou"] < 1 for line in lines.values() if "error" not in line)


# -- rows that build on others -----------------------------------------------------------------------------------------


OWN = {
    **GOOD,
    "tasks": {"night": {**GOOD["tasks"]["night"], "oracle": "scenes:night,count=4,size=32x64@train"}},
    "rows": {
        "self_training": None,
        "free": {"recipe": "source_free", "from": "self_training", "without": ["source"]},
        "labelled": {"recipe": "source_free", "from": "self_training", "labels": {"count": 2, "by": "random"}},
        "audited": {"recipe": "source_free", "from": "self_training", "labels": {"count": 1, "by": "free"}},
    },
}


def test_a_row_starts_from_anothers_run_of_the_same_seed(study, tmp_path, monkeypatch):
    monkeypatch.undo()  # the command as it is
    monkeypatch.setattr(study, "CELLS", tmp_path / "cells")
    _, cells = study.read_study(written(tmp_path, OWN))
    of = {(cell.row, cell.seed): cell for cell in cells}
    free = of["free", 1].command()
    assert f"--from={of['self_training', 1].folder}" in free
    assert not [word for word in free if word.startswith("--source")]
    (labels,) = [word for word in of["labelled", 0].command() if word.startswith("--labels=folder:")]
    dataset = open_dataset(labels.removeprefix("--labels="))
    assert len(dataset) == 2
    oracle = open_dataset("scenes:night,count=4,size=32x64@train")
    assert dataset.space.classes == oracle.space.classes
    pairs = [(dataset.image(index), dataset.label(index)) for index in range(2)]
    known = [(oracle.image(index), oracle.label(index)) for index in range(4)]
    assert all(any(a.equal(c) and b.equal(d) for c, d in known) for a, b in pairs)
    assert len({cell.key for cell in cells}) == 4
    assert [cell.row for cell in of["audited", 0].bases] == ["self_training", "free"]


def test_who_needs_another_waits_for_it_and_falls_with_it(study, tmp_path):
    _, cells = study.read_study(written(tmp_path, {**OWN, "seeds": [0]}))
    waiting = study.deque(cells)
    first = study.next_ready(waiting, [])
    assert first.row == "self_training"
    assert study.next_ready(waiting, [first]) is None
    assert [study.next_ready(waiting, []).row for _ in range(3)] == ["free", "labelled", "audited"]
    found = study.attempt(cells[1], {})
    assert "row 'self_training', which it needs, is not finished" in found["error"]


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"from": "later"}, "from: 'later' is no row above this one"),
        ({"without": ["source"]}, "without: .* name its row with from"),
        ({"from": "self_training", "without": ["target"]}, r"without: write \[source\]"),
        ({"labels": {"count": 0, "by": "random"}}, "labels: count: .* 1 or more"),
        ({"labels": {"count": 3, "by": "nobody"}}, "labels: by: write random, or the row whose run is audited"),
        ({"labels": {"count": 3}}, "labels: by: missing"),
    ],
)
def test_a_row_that_cannot_build_on_another_is_one_line(study, tmp_path, row, match):
    rows = {"self_training": None, "mine": {"recipe": "source_free", **row}, "later": {"recipe": "source_free"}}
    with pytest.raises(SegRefineryError, match=match):
        study.read_study(written(tmp_path, {**OWN, "rows": rows}))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_page_named_as_a_study_is_that_study_s(path):
    """No other script may write the page, for the next run of the study would take its place."""
    page = BENCHMARKS / "results" / f"{path.stem}.md"
    if page.exists():
        assert page.read_text(encoding="utf-8").startswith(("### ", "Not finished"))
