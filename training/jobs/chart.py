"""The loss curve of a training job as SVG, without JavaScript."""

from collections.abc import Sequence

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from training.models import TrainingProgress

WIDTH, HEIGHT, MARGIN = 640, 240, 40
MAX_POINTS = 300
COLOURS = {"loss": "#2563eb", "eval_loss": "#d97706"}
SVG = """<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{title}">
<g font-size="11" fill="currentColor"><text x="0" y="{top}">{highest}</text><text x="0" y="{bottom}">{lowest}</text>
<text x="{left}" y="{height}">{first}</text><text x="{right}" y="{height}" text-anchor="end">{last}</text>{keys}</g>
{lines}</svg>"""
LINE = '<polyline fill="none" stroke="{}" stroke-width="1.5" points="{}"/>'
KEY = '<text x="{}" y="12" fill="{}">{}</text>'

Series = list[tuple[int, float]]  # step, value


def loss_curve(points: Sequence[TrainingProgress]) -> SafeString:
    """Training and evaluation loss by step; empty where there is nothing to draw yet."""
    series = {name: _sample(points, name) for name in COLOURS}
    series = {name: values for name, values in series.items() if values}
    steps = [step for values in series.values() for step, _value in values]
    losses = [loss for values in series.values() for _step, loss in values]
    if len(steps) < 2:
        return SafeString("")
    frame = _Frame(min(steps), max(steps), min(losses), max(losses))
    lines = format_html_join("", LINE, ((COLOURS[name], frame.path(values)) for name, values in series.items()))
    names = {"loss": _("Loss"), "eval_loss": _("Loss on held-out rows")}
    keys = format_html_join(
        "", KEY, ((MARGIN + 160 * index, COLOURS[name], names[name]) for index, name in enumerate(series))
    )
    return format_html(
        SVG, width=WIDTH, height=HEIGHT, title=_("Loss by step"), top=MARGIN, bottom=HEIGHT - MARGIN, left=MARGIN,
        right=WIDTH, highest=f"{frame.high:.3g}", lowest=f"{frame.low:.3g}", first=frame.first, last=frame.last,
        keys=keys, lines=lines,
    )  # fmt: skip


def _sample(points: Sequence[TrainingProgress], name: str) -> Series:
    """If there are too many points: every n-th, and the last."""
    values = [(point.step, value) for point in points if (value := getattr(point, name)) is not None]
    stride = -(-len(values) // MAX_POINTS) or 1
    return values[::stride] + (values[-1:] if (len(values) - 1) % stride else [])


class _Frame:
    """Maps a step and a loss to coordinates."""

    def __init__(self, first: int, last: int, low: float, high: float):
        self.first, self.last, self.low, self.high = first, last, low, high

    def path(self, values: Series) -> str:
        return " ".join(f"{self._x(step):.1f},{self._y(value):.1f}" for step, value in values)

    def _x(self, step: int) -> float:
        return MARGIN + (WIDTH - MARGIN) * (step - self.first) / max(self.last - self.first, 1)

    def _y(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN)
