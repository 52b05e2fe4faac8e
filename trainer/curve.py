"""The loss curve as a picture."""

from pathlib import Path


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
