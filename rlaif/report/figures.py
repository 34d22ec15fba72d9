"""Plots as inline SVG. One look: few colours, labelled axes, intervals wherever there is a number.

Each panel is a figure of its own, narrow enough to be read on a phone at its natural size; a page sets as many side by
side as fit.
"""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from rlaif.findings import RATES
from rlaif.statistics import Figure, reliability

INK, ACCENT, MUTED = "#1f2933", "#2563a8", "#9aa5b1"
COLOURS = (ACCENT, "#b4531f", "#2f7d4f", "#7b4ea3", "#8a6d00", MUTED)  # of several names in one panel
WIDTH = 3.0  # inches; 96 CSS pixels each
CURVES = (
    ("loss", "loss, nats"),
    ("accuracy", "share in right order"),
    ("reward", "mean reward"),
    ("kl", "nats from the start"),
    ("length", "tokens a response"),
    ("entropy", "nats a token"),
    ("ended", "share that ended"),
)
FLAT = 0.1  # nats: a loss that moves by less is drawn as flat as it is
LABEL = 18  # characters to a line of a row's name
AXIS = 30  # to one of what an axis shows, beside such names
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
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
ARM_PLOTS = {
    "win_rate": "win rate against the start",
    "reward": "reward",
    "words": "length, words per answer",
    "kl": "KL to the start, nats per answer",
}


class Plots:
    """Each method returns SVG strings, or nothing where there is nothing to show."""

    def rates(self, metrics: dict[str, Figure]) -> str:
        """Label rates with intervals, one row each."""
        rows = [(label, metrics[name]) for name, label in RATES.items() if name in metrics]
        return self.forest(rows, "share", "Rates of the labels with 95% intervals", lines=(0.5,), ends=(0, 1))

    def forest(
        self, rows: list[tuple[str, Figure]], label: str, title: str, *, lines: tuple[float, ...] = (), ends: Any = None
    ) -> str:
        """Figures with intervals, one named row each; dotted lines at ``lines``, the axis from and to ``ends``."""
        rows = [(name, figure) for name, figure in rows if figure.value is not None]
        if not rows:
            return ""
        with plt.rc_context(STYLE):
            canvas, axes = _panel(0.7 + 0.42 * len(rows))
            _rows(axes, rows)
            for line in lines:
                axes.axvline(line, color=MUTED, linewidth=0.8, linestyle=":")
            if ends:
                axes.set_xlim(*ends)
            axes.set_xlabel(textwrap.fill(label, AXIS))
            return _svg(canvas, title)

    def curves(self, history: list[dict[str, float]], title: str) -> list[tuple[str, str]]:
        """Per step what the history holds, each by its name: loss and accuracy, or of a method that samples reward, KL and
        length."""
        if len(history) < 2:
            return []
        found = []
        for name, label in CURVES:
            rows = [row for row in history if name in row]  # a step without a label has no loss
            if len(rows) < 2 or (name == "loss" and "reward" in rows[0]):
                continue  # a policy gradient's loss says nothing
            steps, values = [row["step"] for row in rows], np.array([row[name] for row in rows])
            with plt.rc_context(STYLE):
                canvas, axes = _panel(2.4)
                axes.plot(steps, values, color=MUTED, linewidth=0.8)
                axes.plot(steps, _smooth(values), color=ACCENT, linewidth=1.6)
                axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
                if name in ("accuracy", "ended"):
                    axes.set_ylim(0, 1.02)
                elif np.ptp(values) < FLAT:
                    middle = (values.min() + values.max()) / 2
                    axes.set_ylim(middle - 0.55 * FLAT, middle + 0.55 * FLAT)
                axes.set(xlabel="step", ylabel=label)
                found.append((name, _svg(canvas, f"Training of {title}: {name} by step")))
        return found

    def looks(self, looks: list[dict[str, float]], title: str) -> str:
        """A judge that looks on beside the reward: its win rate above, the mean reward of the same answers below."""
        if len(looks) < 2:
            return ""
        steps = [look["step"] for look in looks]
        with plt.rc_context(STYLE):
            canvas, axes = _panel(2.8)
            axes.plot(
                steps, [look["gold"] for look in looks], "o-", color=ACCENT, markersize=3, linewidth=1.4, label="judge"
            )
            axes.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
            axes.set(xlabel="step", ylabel="win rate", ylim=(0, 1))
            other = axes.twinx()
            other.plot(steps, [look["reward"] for look in looks], "s--", color=MUTED, markersize=3, linewidth=1)
            other.set_ylabel("mean reward (dashed)")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            return _svg(canvas, f"Training of {title}: a judge that looks on, and the reward, by step")

    def calibration(self, held_out: dict[str, Any] | None) -> str:
        """Predicted probability against labels on held-out pairs."""
        if not held_out:
            return ""
        labelled = [i for i, weight in enumerate(held_out["weight"]) if weight > 0]
        predicted = [1 / (1 + np.exp(-held_out["differences"][i])) for i in labelled]
        target = [held_out["p"][i] for i in labelled]
        title = "Calibration of the reward model on held-out pairs"
        return self.reliability(predicted, target, "predicted by the reward model", "share in the labels", title)

    def reliability(self, predicted: Sequence[float], target: Sequence[float], said: str, came: str, title: str) -> str:
        """What was predicted, in bins of equal size, against what came of it."""
        if len(predicted) < 10:
            return ""
        with plt.rc_context(STYLE):
            canvas, axes = _panel(3.1)
            axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
            parts = reliability(predicted, target)
            axes.plot([x for x, _, _ in parts], [y for _, y, _ in parts], "o-", color=ACCENT, markersize=4, linewidth=1)
            axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=said, ylabel=came)
            return _svg(canvas, title)

    def arms(self, metrics: dict[str, Figure], arms: list[str]) -> list[str]:
        """Before and after: each of the policies' main figures with intervals, one panel each."""
        found = []
        for name, label in ARM_PLOTS.items():
            rows = [(arm, metrics[key]) for arm in arms if (key := f"policies.{arm}.{name}") in metrics]
            rows = [(arm, figure) for arm, figure in rows if figure.value is not None]
            if not rows:
                continue
            with plt.rc_context(STYLE):
                canvas, axes = _panel(0.8 + 0.36 * len(rows))
                _rows(axes, rows)
                if name == "win_rate":
                    axes.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
                    axes.set_xlim(0, 1)
                axes.set_xlabel(label)
                found.append(_svg(canvas, f"Policies: {label}, with 95% intervals"))
        return found

    def growth(
        self, curves: dict[str, list[tuple[float, Figure]]], label: str, title: str, what: str = "labels to learn from"
    ) -> str:
        """A figure with its interval by a number on a scale of logarithms, one line for each name."""
        if not any(len(points) > 1 for points in curves.values()):
            return ""
        with plt.rc_context(STYLE):
            canvas, axes = _panel(2.8)
            for colour, (name, points) in zip(itertools.cycle(COLOURS), curves.items(), strict=False):
                known = [(x, figure) for x, figure in points if figure.value is not None]
                axes.plot(
                    [x for x, _ in known], [f.value for _, f in known], "o-", color=colour, markersize=4, label=name
                )
                for x, figure in known:
                    if figure.low is not None and figure.high is not None:
                        axes.plot([x, x], [figure.low, figure.high], color=colour, linewidth=1, alpha=0.6)
            axes.set_xscale("log")
            ticks = sorted({round(x) for points in curves.values() for x, _ in points})
            axes.set_xticks(ticks, [f"{x:,}" for x in ticks], rotation=45)
            axes.minorticks_off()
            axes.set(xlabel=what, ylabel=label)
            axes.legend(frameon=False, fontsize=8)
            return _svg(canvas, title)

    def frontier(self, points: dict[str, tuple[Figure, Figure]], across: str, up: str, title: str) -> str:
        """Two figures of each name against each other, with both intervals."""
        known = {name: pair for name, pair in points.items() if None not in (pair[0].value, pair[1].value)}
        if len(known) < 2:
            return ""
        with plt.rc_context(STYLE):
            canvas, axes = _panel(3.1)
            for colour, (name, (x, y)) in zip(itertools.cycle(COLOURS), known.items(), strict=False):
                if x.low is not None and x.high is not None:
                    axes.plot([x.low, x.high], [y.value, y.value], color=colour, linewidth=1)
                if y.low is not None and y.high is not None:
                    axes.plot([x.value, x.value], [y.low, y.high], color=colour, linewidth=1)
                axes.plot([x.value], [y.value], "o", color=colour, markersize=5, label=name)
            axes.set(xlabel=across, ylabel=up)
            axes.legend(frameon=False, fontsize=8)
            return _svg(canvas, title)


def _panel(height: float) -> tuple[Canvas, Any]:
    return plt.subplots(figsize=(WIDTH, height), layout="constrained")


def _rows(axes: Any, rows: list[tuple[str, Figure]]) -> None:
    """Values with intervals, one named row each, the first on top."""
    for y, (_, figure) in enumerate(reversed(rows)):
        assert figure.value is not None
        if figure.low is not None and figure.high is not None:
            axes.plot(
                [figure.low, figure.high], [y, y], color=ACCENT, linewidth=2, solid_capstyle="round", clip_on=False
            )
        axes.plot([figure.value], [y], "o", color=ACCENT, markersize=5, clip_on=False)
    axes.set_yticks(range(len(rows)), [textwrap.fill(label, LABEL) for label, _ in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.margins(x=0.1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over a twentieth of the steps."""
    width = max(1, len(values) // 20)
    total = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (total[ends] - total[starts]) / (ends - starts)


def _svg(canvas: Canvas, title: str) -> str:
    text = io.StringIO()
    canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(canvas)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
