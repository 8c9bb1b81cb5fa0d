"""What a run says of itself at its end."""

from types import SimpleNamespace

import pytest

from segrefinery.engine import witness as engine_witness
from segrefinery.engine.events import RunEvents
from segrefinery.engine.tracker import Tracker
from segrefinery.engine.witness import Witness
from segrefinery.evaluation.trust.verdict import Verdict


class Told(RunEvents):
    def __init__(self):
        self.lines = []

    def said(self, line):
        self.lines.append(line)


@pytest.mark.parametrize(
    ("choose", "labels", "chosen", "word", "wanted"),
    [
        ("last", None, "adapt", "better", []),
        (
            "last",
            None,
            "adapt",
            "worse",
            ["model/ is the adapted one all the same, source_model/ the one before; training.choose"],
        ),
        ("score", None, "source", "worse", ["model/ is that of source: none is called better"]),
        ("score", "taught", "adapt", "no evidence", ["model/ is that of adapt: labels of the target taught it, and"]),
        ("score", "taught", "source", "worse", ["model/ is that of source: none is called better"]),
    ],
)
def test_a_run_says_which_model_it_ships(choose, labels, chosen, word, wanted, tmp_path, monkeypatch):
    told = Told()
    scorer = SimpleNamespace(sets=SimpleNamespace(source=None, labels=labels))
    witness = Witness(tmp_path, scorer, Tracker(tmp_path, tensorboard=False), told, choose)  # pyright: ignore
    monkeypatch.setattr(witness, "conclude", lambda: Verdict(word, -0.1, None))
    witness.source_only = "source"
    witness.chosen = chosen
    witness.concluded()
    verdict, *more = told.lines
    assert verdict.startswith("verdict: ")
    assert len(more) == len(wanted)
    assert all(line.startswith(begin) for line, begin in zip(more, wanted, strict=True))


@pytest.mark.parametrize(
    ("labels", "words", "wanted"),
    [
        (None, {"prepared": "better", "adapt": "better"}, "adapt"),
        (None, {"prepared": "better", "adapt": "no evidence"}, "prepared"),
        (None, {"prepared": "no evidence", "adapt": "worse"}, "source"),
        ("taught", {"prepared": "better", "adapt": "no evidence"}, "adapt"),
        ("taught", {"prepared": "better", "adapt": "worse"}, "prepared"),
        ("taught", {"prepared": "no evidence", "adapt": "worse"}, "source"),
    ],
)
def test_what_is_not_called_better_is_not_shipped_but_for_labels(labels, words, wanted, tmp_path, monkeypatch):
    scorer = SimpleNamespace(sets=SimpleNamespace(source=None, labels=labels))
    witness = Witness(tmp_path, scorer, Tracker(tmp_path, tensorboard=False), Told(), "score")  # pyright: ignore
    looks = {name: SimpleNamespace(name=name, names=["a", "b"]) for name in ("early", "source", "prepared", "adapt")}
    witness.observations, witness.source_only = looks, "source"  # pyright: ignore
    scores = {"source": 0.1, "prepared": 0.2, "adapt": 0.3}
    monkeypatch.setattr(engine_witness, "expected_classes", lambda *_: None)
    monkeypatch.setattr(engine_witness, "trust", lambda candidate, *_: scores[candidate.name])
    monkeypatch.setattr(engine_witness, "verdict", lambda candidate, *_: Verdict(words[candidate.name], 0.1, None))
    assert witness.best() == wanted
