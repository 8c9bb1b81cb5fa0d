"""The study of the verdicts: what its tables count."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from segrefinery.evaluation.trust import Observation

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "trust" / "trust_study.py"


def observation(classes):
    """What a model that says ``classes`` (images x pixels, of two) is seen to do."""
    probs = torch.nn.functional.one_hot(classes, 2).half()
    views = {
        name: torch.diag_embed(probs.float().sum(dim=1)).long() for name in ("photometric", "flip", "scale", "mix")
    }
    names = [str(index) for index in range(len(classes))]
    return Observation(names, probs, views, torch.ones_like(classes, dtype=torch.bool), torch.zeros(len(classes)))


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parents[1]))
    spec = importlib.util.spec_from_file_location("trust_study", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_models_count_when_their_run_folders_are_gone(study, tmp_path, monkeypatch):
    def judged(run, miou):
        return study.Judged("night", run, "adapt", False, miou, {"trust": miou}, "better", miou - 0.2)

    monkeypatch.setattr(study, "JUDGED", tmp_path / "trust" / "judged.jsonl")
    monkeypatch.setattr(study, "MODELS", 2)
    assert study.kept_and([judged("first", 0.3)]) == {}
    kept = study.kept_and([judged("second", 0.4), judged("an alias", 0.3)])
    assert kept == {"night": [judged("an alias", 0.3), judged("second", 0.4)]}
    assert study.kept_and([]) == kept


def test_a_model_that_runs_share_counts_once(study, tmp_path, monkeypatch):
    classes = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    said = {}
    for name, source, stages in (
        ("first", "source", {"source": 0.2, "warmup": 0.25, "adapt": 0.3}),
        ("second", "source", {"source": 0.2, "warmup": 0.25, "adapt": 0.1}),
        ("third", "start", {"start": 0.2, "adapt": 0.35}),
    ):
        run = tmp_path / "night" / name / "seed0"
        run.mkdir(parents=True)
        results = {
            "source_only": {"stage": source, "miou": stages[source]},
            "stages": {stage: {"miou": miou} for stage, miou in stages.items()},
        }
        (run / "results.json").write_text(json.dumps(results))
        said[run] = dict.fromkeys(stages, observation(classes))
    monkeypatch.setattr(study, "observations", said.__getitem__)
    judged = study.judge_task("night", list(said))
    assert sorted(model.miou for model in judged) == [0.1, 0.2, 0.25, 0.3, 0.35]
    assert [model.miou for model in judged if model.source_only] == [0.2]
    assert {model.miou: round(model.gain, 2) for model in judged if not model.source_only} == {
        0.1: -0.1, 0.25: 0.05, 0.3: 0.1, 0.35: 0.15,
    }  # fmt: skip


def test_a_page_on_more_models_than_there_are_now_stays(study, tmp_path, monkeypatch):
    page = tmp_path / "trust.md"
    page.write_text("# Title\n\n54 runs, 0 looks in 0 of them.\n")
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    monkeypatch.setattr(study, "JUDGED", tmp_path / "trust" / "judged.jsonl")
    monkeypatch.setattr(study, "finished_runs", lambda: [])
    monkeypatch.setattr(sys, "argv", ["trust_study.py", "table"])
    with pytest.raises(study.SegRefineryError, match=r"trust\.md: rests on 54 models, and the runs under .* are 0"):
        study.main()
    assert page.read_text().startswith("# Title")
    assert (tmp_path / "verdicts.md").read_text().startswith("# Can the verdicts be believed?")  # needs no run folders
    page.unlink()
    study.main()
    assert "0 models" in page.read_text()


def test_a_form_is_chosen_on_the_other_tasks(study):
    def models(task, **scores):
        others = dict.fromkeys(study.SIGNS, 0.5)
        return [
            study.Judged(
                task, str(i), "adapt", False, i / 10, others | {name: values[i] for name, values in scores.items()}
            )
            for i in range(3)
        ]

    rising, falling = [0.1, 0.2, 0.3], [0.3, 0.2, 0.1]
    judged = {
        "dusk": models("dusk", trust=falling, information=rising),
        "fog": models("fog", trust=rising, information=falling),
        "night": models("night", trust=rising, entropy=falling),
    }
    lines = study.forms_table(judged).splitlines()
    assert lines[2] == "| dusk | -1.00 | trust | +1.00 | -1.00 | information | +1.00 |"
    assert lines[4] == "| night | +1.00 | trust | +0.00 | +1.00 | trust | +1.00 |"  # fog and dusk contradict each other


def test_the_verdicts_of_studies_count_once_and_yield_to_those_judged_anew(study, tmp_path):
    def line(row, key, miou, verdict):
        cell = {"task": "night", "row": row, "seed": 0, "key": key, "recipe": row, "stage": "adapt", "miou": miou}
        return json.dumps(cell | {"verdict": verdict, "before": 0.2}) + "\n"

    (tmp_path / "first.jsonl").write_text(line("a", "1", 0.3, "better") + line("b", "2", 0.1, "better"))
    (tmp_path / "second.jsonl").write_text(line("a again", "1", 0.3, "better") + line("c", "3", 0.4, "worse"))
    source_only = {"task": "night", "row": "source_only", "seed": 0, "key": "0", "recipe": "source_only"}
    (tmp_path / "third.jsonl").write_text(json.dumps(source_only | {"stage": "source", "miou": 0.2}) + "\n")
    verdicts = sys.modules[study.Judged.__module__]
    judged = study.Judged("night", "b-2/seed0", "adapt", False, 0.1, {"trust": 0.1}, "no evidence", -0.1)
    models = verdicts.with_studies({"night": [judged]}, tmp_path)["night"]
    assert {(m.run, m.miou, m.verdict) for m in models} == {
        ("a-1/seed0", 0.3, "better"), ("b-2/seed0", 0.1, "no evidence"), ("c-3/seed0", 0.4, "worse"),
    }  # fmt: skip
    lines = verdicts.verdict_table({"night": models}).splitlines()
    assert "| night | better | 1 | 0 | 1 |" in lines
    assert "| night | worse | 0 | 1 | 0 |" in lines
    assert verdicts.opposites({"night": models}).splitlines() == [
        "Called better and worse in truth: 0", "", "Called worse and better in truth: 1", "",
        "* night c-3/seed0 adapt, +20.0 points",
    ]  # fmt: skip
