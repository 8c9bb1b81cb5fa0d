"""What a run says of itself at its end."""

from types import SimpleNamespace

import pytest

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
    ("choose", "word", "wanted"),
    [
        ("last", "better", []),
        (
            "last",
            "worse",
            ["model/ is the adapted one all the same, source_model/ the one before; training.choose"],
        ),
        ("score", "worse", ["model/ is that of source, which scores highest"]),
    ],
)
def test_a_run_says_which_model_it_ships_where_the_verdict_leaves_it_open(choose, word, wanted, tmp_path, monkeypatch):
    told = Told()
    scorer = SimpleNamespace(sets=SimpleNamespace(source=None))
    witness = Witness(tmp_path, scorer, Tracker(tmp_path, tensorboard=False), told, choose)  # pyright: ignore
    monkeypatch.setattr(witness, "conclude", lambda: Verdict(word, -0.1, None))
    monkeypatch.setattr(witness, "best", lambda: "source")
    witness.concluded()
    verdict, *more = told.lines
    assert verdict.startswith("verdict: ")
    assert len(more) == len(wanted)
    assert all(line.startswith(begin) for line, begin in zip(more, wanted, strict=True))
