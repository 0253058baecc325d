"""The results as one SVG file, for light and dark pages, by hand: no plotting library is needed for bars and lines."""

from collections.abc import Mapping, Sequence
from html import escape

Figures = Mapping[str, float]

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 } .quiet { fill: #59636e } .axis { stroke: #d1d9e0 }
.bar { fill: #afb8c1 } .bar.asking { fill: #6e7781 } .bar.ours { fill: #0a7d4f }
.range { stroke: #24292f; stroke-width: 1.5 }
.line { fill: none; stroke: #afb8c1; stroke-width: 1.5 } .line.asking { stroke: #6e7781; stroke-dasharray: 5 3 }
.line.ours { stroke: #0a7d4f; stroke-width: 3 }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117 } text { fill: #e6edf3 } .quiet { fill: #9198a1 } .axis { stroke: #3d444d }
  .bar { fill: #656c76 } .bar.asking { fill: #9198a1 } .bar.ours { fill: #3fb950 } .range { stroke: #e6edf3 }
  .line { stroke: #656c76 } .line.asking { stroke: #9198a1 } .line.ours { stroke: #3fb950 }
}
"""
ROW, TOP, LEFT, BARS = 24, 56, 136, 250
LINES, WIDTH = 560, 880
PER_S, LIMIT_S = 60, 4.0
"""Pixels a second of the bars, and the longest one; what is longer ends in an arrow."""


def draw(bars: Mapping[str, Figures], lines: Mapping[str, Sequence[float]], asking: Sequence[str]) -> str:
    """The file's text.

    Args:
        bars: mean, least and most seconds to the first token by router, with the oldest views.
        lines: mean seconds by router, for each period at which loads are told.
        asking: the routers that ask before they choose.
    """
    rows = sorted(bars, key=lambda router: bars[router]["mean_s"])
    height = TOP + ROW * len(rows) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f'<style>{STYLE}</style><rect class="page" width="100%" height="100%" fill="#fff"/>',
        _text(16, 24, "Seconds to the first token, 8 entry nodes", "title"),
        _text(16, 43, "told every 5 s: mean, and least and most of the seeds' means", "quiet"),
        _text(LINES, 43, "by how often loads are told", "quiet"),
    ]
    for index, router in enumerate(rows):
        parts += _bar(router, bars[router], TOP + ROW * index, _kind(router, asking))
    parts += _lines(lines, asking, TOP + ROW * len(rows))
    parts.append(
        _text(
            16,
            height - 12,
            "green: clovenet; dashed, and the bars of the third shade: ask before they choose",
            "quiet",
        )
    )
    return "\n".join([*parts, "</svg>", ""])


def _kind(router: str, asking: Sequence[str]) -> str:
    return "ours" if router == "ours" else "asking" if router in asking else ""


def _bar(router: str, figures: Figures, y: int, kind: str) -> list[str]:
    mean, least, most = (min(figures[each], LIMIT_S) * PER_S for each in ("mean_s", "least_s", "most_s"))
    middle, cut = y + 9, " →" if figures["most_s"] > LIMIT_S else ""
    return [
        _text(LEFT - 8, y + 13, router, "title" if kind == "ours" else "", "end"),
        f'<rect class="bar {kind}" x="{LEFT}" y="{y}" width="{mean:.1f}" height="18" rx="2"/>',
        f'<path class="range" d="M{LEFT + least:.1f} {middle}H{LEFT + most:.1f}"/>',
        _text(LEFT + most + 8, y + 13, f"{figures['mean_s']:.2f}{cut}", "title" if kind == "ours" else ""),
    ]


def _lines(lines: Mapping[str, Sequence[float]], asking: Sequence[str], bottom: int) -> list[str]:
    most = max(max(values) for values in lines.values())
    left, right = LINES, WIDTH - 132
    xs = [left, left + (right - left) * 0.3, right]  # 0, 1 and 5 s, not to scale
    per_s = (bottom - TOP - 60) / most  # names above each other find room over the highest line

    def y(value: float) -> float:
        return bottom - 16 - value * per_s

    parts = [
        _text(x, bottom + 4, label, "quiet", "middle")
        for x, label in zip(xs, ("0 s", "1 s", "5 s"), strict=True)
    ]
    for value in range(int(most) + 1):
        parts.append(f'<path class="axis" d="M{left} {y(value):.1f}H{right}"/>')
        parts.append(_text(left - 8, y(value) + 4, f"{value}", "quiet", "end"))
    lowest = float("inf")
    for router, values in sorted(lines.items(), key=lambda item: item[1][-1]):
        points = " ".join(f"{x:.1f},{y(value):.1f}" for x, value in zip(xs, values, strict=True))
        kind = _kind(router, asking)
        parts.append(f'<polyline class="line {kind}" points="{points}"/>')
        lowest = min(y(values[-1]) + 4, lowest - 14)  # names do not lie over each other
        parts.append(_text(right + 8, lowest, router, "title" if kind == "ours" else ""))
    return parts


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
