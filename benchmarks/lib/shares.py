"""Class shares as pictures: bars in text, and bars in an SVG file."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from torch import Tensor

BLOCKS = " ▏▎▍▌▋▊▉█"
COLORS = ("#333333", "#2a78b5", "#e08214", "#4d9221", "#b2182b", "#762a83", "#8c6d31", "#17a2a2")


def bar(share: float, width: int = 20) -> str:
    """A bar of eighths of a letter: 1 fills ``width`` letters, drawn for the square root, so that rare classes show."""
    eighths = round(8 * width * share**0.5)
    return "█" * (eighths // 8) + BLOCKS[eighths % 8].strip()


def draw(path: Path, classes: tuple[str, ...], shares: Mapping[str, Tensor]) -> None:
    """A group of bars a class, one bar a way to label; their height is the square root of the share."""
    thick, gap, high, legend = 7, 14, 240, 18
    group = thick * len(shares) + gap
    width, top = group * len(classes) + 40, legend * len(shares) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top + high + 110}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for row, (name, values) in enumerate(shares.items()):
        color = COLORS[row % len(COLORS)]
        parts.append(f'<rect x="20" y="{8 + row * legend}" width="12" height="12" fill="{color}"/>')
        parts.append(f'<text x="38" y="{18 + row * legend}">{escape(name)}</text>')
        for place, share in enumerate(values.tolist()):
            tall = high * share**0.5
            left = 20 + place * group + row * thick
            parts.append(
                f'<rect x="{left}" y="{top + high - tall:.1f}" width="{thick - 1}" height="{tall:.1f}" '
                f'fill="{color}"><title>{escape(name)}: {100 * share:.3f} %</title></rect>'
            )
    for place, name in enumerate(classes):
        x, y = 20 + place * group + thick * len(shares) // 2, top + high + 12
        parts.append(f'<text transform="translate({x},{y}) rotate(60)">{escape(name)}</text>')
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")
