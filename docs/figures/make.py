"""Draw the figures of docs/concepts.md: python docs/figures/make.py.

The first two are drawings. The third is measured: two siblings of the suite digits that separate at
initialisation, one replicate, on a CPU; its numbers are in recalibration.json.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import lmcbench
from lmcbench.report.figures.style import COLOURS, panels, picture, styled

HERE = Path(__file__).parent
NETWORK = "resnet18*"


def experiment() -> Figure:
    """Draw trunk, fork and siblings in the plane of two weights."""
    figure, [[axis]] = panels(1, 1, width=5.2, height=2.4)
    t = np.linspace(0, 1, 50)
    axis.plot(3 * t, 0.25 * np.sin(2 * t), color=COLOURS[0], linewidth=2.2)
    fork = np.array([3.0, 0.25 * np.sin(2.0)])
    ends = {}
    for name, sign, colour in (("A", 1, COLOURS[1]), ("B", -1, COLOURS[2])):
        x, y = fork[0] + 3 * t, fork[1] + sign * 0.95 * t**0.8
        axis.plot(x, y, color=colour, linewidth=2.2)
        axis.plot(x[-1], y[-1], "o", color=colour, markersize=7)
        axis.annotate(f"sibling {name}", (x[25], y[25]), (x[25] - 0.5, y[25] + sign * 0.35), va="center")
        ends[name] = (x[-1], y[-1])
    (ax, ay), (bx, by) = ends["A"], ends["B"]
    axis.plot([ax, bx], [ay, by], color="#444444", linestyle="--", linewidth=1)
    axis.plot([(ax + bx) / 2], [(ay + by) / 2], "D", color="#444444", markersize=6)
    axis.annotate("soup, alpha = 1/2", (ax, (ay + by) / 2), (ax + 0.12, (ay + by) / 2), va="center")
    axis.annotate("alpha = 0", (ax, ay), (ax + 0.12, ay), va="center")
    axis.annotate("alpha = 1", (bx, by), (bx + 0.12, by), va="center")
    for point, label in ((np.array([0.0, 0.0]), "initialisation"), (fork, "fork")):
        axis.plot(*point, "o", color=COLOURS[0], markersize=7)
        axis.annotate(label, point, point + np.array([0, -0.3]), ha="center")
    axis.annotate("trunk", (1.5, 0.22), (1.5, 0.36), ha="center")
    axis.set(xlim=(-0.6, 7.6), ylim=(-1.3, 1.5))
    axis.set_axis_off()
    return figure


def forms() -> Figure:
    """Draw the two forms of the barrier for ends of equal and of different loss."""
    figure, [axes] = panels(1, 2, width=3.0, height=2.3, sharey=True)
    alphas = np.linspace(0, 1, 101)
    for axis, (a, b), title in zip(
        axes, ((0.2, 0.2), (0.2, 0.8)), ("ends of equal loss", "ends of different loss"), strict=True
    ):
        loss = (1 - alphas) * a + alphas * b + 2.2 * alphas * (1 - alphas) * 0.8
        chord, mean = (1 - alphas) * a + alphas * b, (a + b) / 2
        axis.plot(alphas, loss, color=COLOURS[0], label="loss on the line")
        axis.plot(alphas, chord, color=COLOURS[1], linestyle="--", label="chord")
        axis.axhline(mean, color="#777777", linestyle=":", label="mean of the ends")
        k, top = int((loss - chord).argmax()), int(loss.argmax())
        for x, low, high, colour in (
            (alphas[k], chord[k], loss[k], COLOURS[1]),
            (alphas[top] + (0.06 if k == top else 0.1), mean, loss[top], "#777777"),
        ):
            axis.annotate(
                "",
                (x, high),
                (x, low),
                arrowprops={"arrowstyle": "<->", "color": colour, "shrinkA": 0, "shrinkB": 0},
            )
        axis.set_title(title)
        axis.set_xlabel("alpha")
    axes[0].set_ylabel("loss")
    axes[1].legend(loc="lower right", fontsize="small")
    return figure


def recalibration() -> tuple[Figure, dict[str, object]]:
    """Measure the line between two siblings with BatchNorm, with both kinds of statistics."""
    with tempfile.TemporaryDirectory() as folder:
        frame = lmcbench.run(
            "digits",
            architectures=NETWORK,
            shifts="none",
            forks=0,
            replicates=1,
            device="cpu",
            jobs=1,
            out=folder,
        )
        [path] = (Path(folder) / "records").glob("*.json")
        record = json.loads(path.read_text(encoding="utf-8"))
    [pair] = record["pairs"]
    alphas = record["protocol"]["alphas"]
    curves = {"recalibrated": pair["curves"]["test"], "interpolated": pair["curves_uncalibrated"]["test"]}
    figure, [axes] = panels(1, 2, width=3.0, height=2.3)
    for axis, kind, factor, label in (
        (axes[0], "loss", 1, "test loss (nats)"),
        (axes[1], "error", 100, "test error (%)"),
    ):
        for (name, curve), colour, dash in zip(curves.items(), COLOURS, ("-", "--"), strict=False):
            axis.plot(alphas, factor * np.array(curve[kind]), dash, color=colour, label=f"{name} statistics")
        axis.set(xlabel="alpha (0: A, 1: B)", ylabel=label)
    axes[0].legend(fontsize="small")
    test = frame[frame["split"] == "test"].iloc[0]
    numbers = {
        "suite": f"digits version {record['suite']['version']}",
        "architecture": str(test["architecture"]),
        "shift": "none",
        "fork": "0",
        "replicates": 1,
        "images": int(test["n"]),
        "device": record["env"]["device"],
        "error_barrier_recalibrated": round(float(test["error_chord"]), 4),
        "error_mid_interpolated": round(curves["interpolated"]["error"][len(alphas) // 2], 4),
        "error_mid_recalibrated": round(curves["recalibrated"]["error"][len(alphas) // 2], 4),
    }
    return figure, numbers


def main() -> None:
    """Write the figures as SVG beside this file."""
    with styled():
        measured, numbers = recalibration()
        for name, figure in (("experiment", experiment()), ("forms", forms()), ("recalibration", measured)):
            (HERE / f"{name}.svg").write_bytes(picture(figure, "svg"))
    (HERE / "recalibration.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
