"""Plots as inline SVG. One look: few colours, labelled axes, intervals wherever there is a number."""

from __future__ import annotations

import io
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure as Canvas

from rlaif.statistics import Figure, reliability

INK, ACCENT, MUTED = "#1f2933", "#2563a8", "#9aa5b1"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "rlaif",
}
RATES = {
    "judgements.first_rate": "first shown preferred",
    "judgements.longer_rate": "longer preferred",
    "judgements.orders_agree": "both orders agree",
    "judgements.labellers_agree": "two labellers agree",
    "judgements.unreadable": "reply not readable",
    "judgements.option_mass": "probability on the offered words",
    "agreement.longest": "rule “longest” agrees",
    "agreement.first": "rule “first” agrees",
    "agreement.random": "a coin agrees",
}
ARM_PLOTS = {
    "win_rate": "win rate against the start",
    "reward": "reward",
    "words": "words",
    "kl": "KL to the start, nats",
}


class Plots:
    """Each method returns an SVG string, or an empty one where there is nothing to show."""

    def rates(self, metrics: dict[str, Figure]) -> str:
        """Label rates with intervals, one row each."""
        rows = [(label, metrics[name]) for name, label in RATES.items() if name in metrics]
        rows = [(label, figure) for label, figure in rows if figure.value is not None]
        if not rows:
            return ""
        with plt.rc_context(STYLE):
            canvas, axes = plt.subplots(figsize=(6.2, 0.6 + 0.36 * len(rows)))
            for y, (_, figure) in enumerate(reversed(rows)):
                _point(axes, figure, y)
            axes.set_yticks(range(len(rows)), [label for label, _ in reversed(rows)])
            axes.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
            axes.set_xlim(0, 1)
            axes.set_xlabel("share")
            return _svg(canvas, "Rates of the labels with 95% intervals")

    def curve(self, history: list[dict[str, float]], title: str) -> str:
        """Loss and accuracy per step."""
        if len(history) < 2:
            return ""
        with plt.rc_context(STYLE):
            canvas, (left, right) = plt.subplots(1, 2, figsize=(6.2, 2.3))
            steps = [row["step"] for row in history]
            for axes, name in ((left, "loss"), (right, "accuracy")):
                values = np.array([row[name] for row in history])
                axes.plot(steps, values, color=MUTED, linewidth=0.8)
                axes.plot(steps, _smooth(values), color=ACCENT, linewidth=1.6)
                axes.set_xlabel("step")
                if name == "accuracy":
                    axes.set_ylim(0, 1.02)
                axes.set_ylabel("loss, nats" if name == "loss" else "accuracy on its batch")
            canvas.tight_layout()
            return _svg(canvas, f"Training of {title}: loss and accuracy by step")

    def calibration(self, held_out: dict[str, Any] | None) -> str:
        """Predicted probability against labels on held-out pairs."""
        if not held_out or sum(w > 0 for w in held_out["weight"]) < 10:
            return ""
        labelled = [i for i, weight in enumerate(held_out["weight"]) if weight > 0]
        predicted = [1 / (1 + np.exp(-held_out["differences"][i])) for i in labelled]
        target = [held_out["p"][i] for i in labelled]
        with plt.rc_context(STYLE):
            canvas, axes = plt.subplots(figsize=(3.4, 3.0))
            axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
            parts = reliability(predicted, target)
            axes.plot([x for x, _, _ in parts], [y for _, y, _ in parts], "o-", color=ACCENT, markersize=4, linewidth=1)
            axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted", ylabel="labelled")
            return _svg(canvas, "Calibration of the reward model on held-out pairs")

    def arms(self, metrics: dict[str, Figure], arms: list[str]) -> str:
        """Before and after: each policy's main figures with intervals."""
        shown = [name for name in ARM_PLOTS if any(f"policies.{arm}.{name}" in metrics for arm in arms)]
        if not shown:
            return ""
        with plt.rc_context(STYLE):
            canvas, axes = plt.subplots(
                1, len(shown), figsize=(2.3 * len(shown) + 0.9, 0.9 + 0.4 * len(arms)), sharey=True, squeeze=False
            )
            for plot, name in zip(axes[0], shown, strict=True):
                for y, arm in enumerate(reversed(arms)):
                    figure = metrics.get(f"policies.{arm}.{name}")
                    if figure and figure.value is not None:
                        _point(plot, figure, y)
                if name == "win_rate":
                    plot.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
                plot.set_title(ARM_PLOTS[name], fontsize=9)
                plot.margins(x=0.15)
            axes[0][0].set_yticks(range(len(arms)), list(reversed(arms)))
            axes[0][0].set_ylim(-0.6, len(arms) - 0.4)
            canvas.tight_layout()
            return _svg(canvas, "Policies before and after tuning with 95% intervals")


def _point(axes: Any, figure: Figure, y: float) -> None:
    assert figure.value is not None
    if figure.low is not None and figure.high is not None:
        axes.plot([figure.low, figure.high], [y, y], color=ACCENT, linewidth=2, solid_capstyle="round")
    axes.plot([figure.value], [y], "o", color=ACCENT, markersize=5)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over a twentieth of the steps."""
    width = max(1, len(values) // 20)
    total = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (total[ends] - total[starts]) / (ends - starts)


def _svg(canvas: Canvas, title: str) -> str:
    text = io.StringIO()
    canvas.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(canvas)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
