from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from segrefinery.core.errors import SegRefineryError
from segrefinery.core.yaml import parse_yaml
from segrefinery.data.datasets import open_dataset
from segrefinery.recipe import load_recipe

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


def test_what_a_text_holds():
    assert parse_yaml("base: &b {lr: 0.1, on: no}\nmine: {<<: *b, lr: 2}") == {
        "base": {"lr": 0.1, True: False},
        "mine": {"lr": 2, True: False},
    }
    assert parse_yaml("") is None
    assert parse_yaml("{0: no, 1: on, 2: null}", booleans=False) == {0: "no", 1: "on", 2: None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "aliases that stand for them"),
        ("a: &a [*a]", "aliases that stand for them"),
        ("[" * 3000, "nested too deeply|expected"),
        ("{0: a, 1: b, 0: c}", "line 1: '0' is given twice"),
        ("{1: a, 0x1: b}", "'0x1' is given twice"),
        ("a: 2020-99-99", "month must be"),
    ],
)
def test_what_is_refused_at_once(text, message):
    with pytest.raises(yaml.YAMLError, match=message):
        parse_yaml(text)


def test_bombs_and_text_that_is_no_utf8_are_one_line_about_the_file(tmp_path):
    (tmp_path / "dataset.yaml").write_text(f"images: x\n{BOMB}")
    with pytest.raises(SegRefineryError, match=r"dataset.yaml: dataset.yaml: is no YAML: it holds more than 100,000"):
        open_dataset(f"folder:{tmp_path}")
    (tmp_path / "r.yaml").write_text(BOMB)
    with pytest.raises(SegRefineryError, match=r"r.yaml: not valid YAML: it holds more than 100,000"):
        load_recipe(str(tmp_path / "r.yaml"))
    (tmp_path / "r.yaml").write_bytes(b"name: \xff")
    with pytest.raises(SegRefineryError, match=r"r.yaml: the recipe cannot be read \(it is no UTF-8"):
        load_recipe(str(tmp_path / "r.yaml"))


def test_an_absurd_number_is_one_line_within_seconds():
    command = [sys.executable, "-m", "segrefinery", "check", "scenes:day,count=2", "scenes:night,count=2"]
    command += ["--recipe", "self_training", "--set", f"stages.adapt.batch={10**29}"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 2
    assert "batch" in found.stderr + found.stdout
    assert "Traceback" not in found.stderr
