"""UncerDA's rounds: what the target found uncertain, and how that moved the sampling of the source."""

from __future__ import annotations

from collections.abc import Sequence

from segrefinery.reporting.charts import bar_rows, line_chart
from segrefinery.reporting.markup import Markup, element, figure, section, table
from segrefinery.reporting.material import Material
from segrefinery.stages.target_guided import FILE, RoundRecord


def rounds_section(material: Material) -> Markup | None:
    """Uncertain classes, class entropies and sampling probabilities of every round that was kept."""
    folders = [path.parent for path in material.folder.glob(f"stages/*/{FILE}")]
    records = sorted((RoundRecord.load(folder) for folder in folders), key=lambda record: record.number)
    if not records:
        return None
    rows = [_row(record) for record in records]
    parts = [
        table(
            [
                "round",
                "source images drawn",
                "uncertain classes S_k, the worst first",
                "mean entropy",
                "seen most often",
            ],
            rows,
        )
    ]
    charts = []
    guided = [record for record in records if record.class_entropies]
    if guided:
        entropies = {f"before round {record.number}": record.class_entropies for record in guided}
        bars = bar_rows(records[0].classes, entropies, "entropy of each class, round by round", unit="")
        charts.append(figure(bars, "Mean normalised entropy of the target pixels predicted as each class"))
    drawn = {
        f"round {record.number}": list(enumerate(times_as_often(record.probabilities)))
        for record in records
        if record.probabilities
    }
    if drawn:
        chart = line_chart(drawn, "source images, the most favoured first", "times as often", "sampling of the source")
        charts.append(figure(chart, "How often each source image is drawn, compared with drawing evenly"))
    if charts:
        parts.append(element("div", charts, class_="charts"))
    lead = "Each round measures which classes the target finds uncertain and draws more source images that hold them."
    return section("Rounds", *parts, lead=lead)


def times_as_often(probabilities: Sequence[float]) -> list[float]:
    """Sampling probabilities in units of even sampling, the largest first."""
    return sorted((probability * len(probabilities) for probability in probabilities), reverse=True)


def _row(record: RoundRecord) -> list[str]:
    classes = ", ".join(record.classes[place] for place in record.uncertain) or "not measured"
    how = record.sampling.replace("_", " ")
    if record.settled:
        how = f"not trained: {record.settled}"
    entropy = f"{record.mean_entropy:.3f}" if record.class_entropies else ""
    return [str(record.number), how, classes, entropy, ", ".join(_most_favoured(record))]


def _most_favoured(record: RoundRecord, number: int = 3) -> list[str]:
    """The classes whose pixels the sampling shows most often, compared with drawing evenly."""
    gains = [(gain, name) for gain, name in zip(record.gains, record.classes, strict=False) if gain is not None]
    return [f"{name} {gain:.2f} times" for gain, name in sorted(gains, reverse=True)[:number]]
