"""The loss curve as a picture, and as a page whose points tell their values."""

import html
import math
from collections.abc import Callable
from pathlib import Path

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 860, 420, 56, 36
_COLOURS = {"loss": "#4477aa", "dev_loss": "#ee6677"}
_NAMES = {"loss": "train", "dev_loss": "dev"}


def draw_curve(history: list[dict[str, float]], published_step: int, title: str, path: Path) -> None:
    """Write a PNG with the train and the dev loss over the steps, the best and the published step marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.add_subplot()
    for key, label, style in (("loss", "train", "-"), ("dev_loss", "dev", "o-")):
        points = [(record["step"], record[key]) for record in history if key in record]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    dev = [(record["dev_loss"], record["step"]) for record in history if "dev_loss" in record]
    if dev:
        lowest, step = min(dev)
        axes.plot(step, lowest, "k*", markersize=12, label=f"lowest dev loss: {lowest:.3f} at step {step}")
    axes.axvline(published_step, color="gray", linestyle="--", label=f"published: step {published_step}")
    axes.set(title=title, xlabel="step", ylabel="loss, nats per answer token", ylim=(0, None))
    axes.legend()
    figure.savefig(path, format="png", dpi=120)


def curve_page(history: list[dict[str, float]], published_step: int, title: str) -> str:
    """Return an HTML page of its own: train and dev loss over the steps, the best and the published step marked.

    A point tells its values where the mouse rests on it; below stands the table of the evaluations. Needs no network.
    """
    last = max((record["step"] for record in history), default=1)
    highest = max((record[key] for record in history for key in _NAMES if key in record), default=1.0)
    top = _round_up(highest)

    def x(step: float) -> float:
        return round(_LEFT + step / last * (_WIDTH - _LEFT - 16), 1)

    def y(loss: float) -> float:
        return round(_HEIGHT - _BOTTOM - loss / top * (_HEIGHT - _BOTTOM - 16), 1)

    dev = [(record["dev_loss"], int(record["step"])) for record in history if "dev_loss" in record]
    parts = [_axes(top, last, x, y)]
    for key, name in _NAMES.items():
        points = [(int(record["step"]), record[key]) for record in history if key in record]
        line = " ".join(f"{x(step)},{y(loss)}" for step, loss in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{_COLOURS[key]}" stroke-width="1.5"/>')
        parts += [
            f'<circle cx="{x(step)}" cy="{y(loss)}" r="{3 if key == "dev_loss" else 2}" fill="{_COLOURS[key]}">'
            f"<title>step {step}: {name} loss {loss:.4f}</title></circle>"
            for step, loss in points
        ]
    parts.append(
        f'<line x1="{x(published_step)}" x2="{x(published_step)}" y1="8" y2="{_HEIGHT - _BOTTOM}" stroke="#777"'
        f' stroke-dasharray="5 4"><title>published: step {published_step}</title></line>'
    )
    marks = [f"published: step {published_step}"]
    if dev:
        lowest, step = min(dev)
        parts.append(f'<circle cx="{x(step)}" cy="{y(lowest)}" r="7" fill="none" stroke="#000" stroke-width="2"/>')
        marks.insert(0, f"lowest dev loss: {lowest:.4f} at step {step}")
    legend = "".join(f'<span style="color:{_COLOURS[key]}">● {name}</span> ' for key, name in _NAMES.items())
    rows = "".join(_row(record) for record in history if "dev_loss" in record)
    head = "<tr><th>step</th><th>dev loss</th><th>right dev tokens</th></tr>"
    table = f"<table>{head}{rows}</table>" if rows else "<p>No dev loss: too few rows.</p>"
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: {_WIDTH}px; margin: 2em auto; padding: 0 1em; color: #222 }}
svg {{ width: 100%; height: auto }} text {{ font-size: 12px; fill: #555 }}
table {{ border-collapse: collapse }} td, th {{ padding: 2px 14px; text-align: right }}
tr:nth-child(even) {{ background: #f4f4f4 }}
</style>
<h1>{html.escape(title)}</h1>
<p>{legend} Loss in nats per answer token. {"; ".join(marks)}.</p>
<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="train and dev loss over the steps">
{chr(10).join(parts)}
</svg>
{table}
</html>
"""


def _axes(top: float, last: float, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    lines = []
    for n in range(5):
        loss, step = top * n / 4, round(last * n / 4)
        lines.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 16}" y1="{y(loss)}" y2="{y(loss)}" stroke="#ddd"/>')
        lines.append(f'<text x="{_LEFT - 8}" y="{y(loss) + 4}" text-anchor="end">{loss:.3g}</text>')
        lines.append(f'<text x="{x(step)}" y="{_HEIGHT - 14}" text-anchor="middle">{step}</text>')
    return "".join(lines)


def _row(record: dict[str, float]) -> str:
    right = f"{record['dev_accuracy']:.1%}" if "dev_accuracy" in record else ""
    return f"<tr><td>{int(record['step'])}</td><td>{record['dev_loss']:.4f}</td><td>{right}</td></tr>"


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 4, 8 times a power of ten."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= value)
