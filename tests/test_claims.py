"""What the papers claim: every claim names rows that exist, and an interval decides."""

import sys
from pathlib import Path

import pytest
import yaml

from segrefinery.core.errors import SegRefineryError

STUDIES = Path(__file__).resolve().parents[1] / "benchmarks" / "studies"
CLAIMS = [
    claim for paper in yaml.safe_load((STUDIES.parent / "lib" / "claims.yaml").read_text()).values() for claim in paper
]


@pytest.fixture(scope="module")
def claims():
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.syspath_prepend(str(STUDIES))
    monkeypatch.syspath_prepend(str(STUDIES.parent))
    for name in ("claims", "study", "into_docs"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import claims  # pyright: ignore[reportMissingImports]

    yield claims
    monkeypatch.undo()


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim["row"] + " " + claim["against"])
def test_a_claim_names_rows_of_its_study_and_a_gate(claims, claim):
    claims.gains(claim)
    if "gate" in claim:
        assert claims.gate(claim["gate"]).count(": ") >= 2, "no gate of this name"


def test_a_row_that_is_not_there_is_one_line(claims):
    with pytest.raises(SegRefineryError, match=r"claims.yaml, 'x': cpsl.yaml has no row 'nothing'"):
        claims.gains({"claim": "x", "study": "cpsl", "row": "cpsl", "against": "nothing"})


@pytest.mark.parametrize(
    ("interval", "word"),
    [((0.1, 0.3), "holds"), ((-0.3, -0.1), "does not hold"), ((-0.1, 0.3), "open"), (None, "open")],
)
def test_the_interval_decides(claims, interval, word):
    assert claims.word(claims.Gain(0.1, interval, 1)) == word


def test_the_page_is_what_the_results_say(claims):
    assert (STUDIES.parent / "results" / "claims.md").read_text(encoding="utf-8") == claims.page()
