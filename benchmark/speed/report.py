"""Write the comparison with plain loops as a table and a figure."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

BASE = "in memory"
"""The loop that all others are compared with."""

OURS = "lmcbench"

COLUMNS = [
    "DataLoader",
    "channels last",
    "channels last, bf16",
    "compiled",
    "compiled, channels last, bf16",
    OURS,
    f"{OURS}, bf16",
]


def ratios(network: dict[str, Any], loop: str) -> list[float]:
    """Return images per second of `loop` over those of the loop in memory, sorted, one per repeat."""
    rates = network["images_per_s"]
    return sorted(a / b for a, b in zip(rates[loop], rates[BASE], strict=True))


def over_best(network: dict[str, Any]) -> float:
    """Return the package's speed in fp32 over that of the fastest plain loop that compiles nothing."""
    plain = [name for name in network["images_per_s"] if name in ("DataLoader", BASE, "channels last")]
    return statistics.median(
        ours / max(others)
        for ours, *others in zip(*(network["images_per_s"][name] for name in (OURS, *plain)), strict=True)
    )


def quote(found: dict[str, Any]) -> str:
    """Return the sentence about speed that README quotes."""
    each = ", ".join(f"{network['title']} {over_best(network):.2f}" for network in found["networks"])
    return (
        "Speed of training on one thread of a CPU, over the fastest of three plain PyTorch loops "
        f"(DataLoader, data in memory, also with channels last): {each} ({found['machine']['device']}, load "
        f"{found['machine']['load']:.0f}, {found['machine']['date']}, medians of {found['repeats']})."
    )


def write_report(found: dict[str, Any], stem: Path) -> str:
    """Write `STEM.md` and `STEM.png`, and return the table."""
    text = "\n".join([*_head(found), *_table(found), *_foot(found)]) + "\n"
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    _plot(found, stem.with_suffix(".png"))
    return text


def _head(found: dict[str, Any]) -> list[str]:
    at = found["machine"]
    return [
        f"# Training on one thread of a CPU, {at['date']}",
        "",
        f"{at['device']}, {at['cores']} cores (load {at['load']:.0f}), torch {at['versions']['torch']}, "
        f"threads {at['threads']}. Images per second of processor time: of the loop with its data in memory, "
        f"and of the others as ratios to it (medians of {found['repeats']} interleaved repeats, quartiles in "
        "parentheses). `python benchmark/speed/run.py` writes this page.",
        *(["", "**Quick run: the numbers are not meaningful.**"] if found["quick"] else []),
    ]


def _table(found: dict[str, Any]) -> list[str]:
    networks = found["networks"]
    shown = [c for c in COLUMNS if any(c in n["images_per_s"] for n in networks)]
    head = ["network", "images", "MFLOP an image", "in memory, images/s", *shown]
    head += ["over the best fp32 loop", "of the ceiling", "engine"]
    best = max(rate for name, rate in found["ceilings"].items() if name.startswith("fp32"))
    rows = ["", f"| {' | '.join(head)} |", f"|---|---|{'--:|' * (len(head) - 3)}---|"]
    for network in networks:
        rates = network["images_per_s"]
        ours = statistics.median(rates[OURS])
        engine = network["engines"][OURS]
        cells = [
            network["title"],
            " x ".join(map(str, network["shape"])),
            f"{network['flop_per_image'] / 1e6:.3g}",
            f"{statistics.median(rates[BASE]):,.0f}",
            *(_ratio(network, c) if c in rates else "" for c in shown),
            f"{over_best(network):.2f}",
            f"{ours * network['flop_per_image'] / best:.0%}",
            f"{engine}, fleet of {network['fleet']}" if engine == "stacked" else engine,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _ratio(network: dict[str, Any], loop: str) -> str:
    values = ratios(network, loop)
    text = f"{statistics.median(values):.2f}"
    if len(values) > 1:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        text += f" ({low:.2f} to {high:.2f})"
    return text


def _foot(found: dict[str, Any]) -> list[str]:
    measured = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in found["ceilings"].items())
    first = [s for network in found["networks"] for s in network["first_call_s"].values()]
    return [
        "",
        "All loops train with SGD, momentum and weight decay; images of 3 x 32 x 32 with flips and "
        "crops, in batches of 64 (8 x 8: 32). *DataLoader*: torchvision's transforms, no workers. *Best fp32 "
        "loop*: of DataLoader, in memory, and in memory with channels last. *Of the ceiling*: operations of "
        "the package's fp32 training over the faster of the fp32 ceilings. Ceilings of a core, GFLOP/s: "
        f"{measured}.",
        *(
            [f"The first call of a compiled network took {min(first):.0f} to {max(first):.0f} s (wall time)."]
            if first
            else []
        ),
        "",
        "![Ratios to the loop in memory](cpu.png)",
    ]


def _plot(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    networks = found["networks"]
    shown = [c for c in COLUMNS if any(c in n["images_per_s"] for n in networks)]
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.65 * len(networks)))
    for k, loop in enumerate(shown):
        rows = [(i, ratios(n, loop)) for i, n in enumerate(networks) if loop in n["images_per_s"]]
        middles = [statistics.median(values) for _, values in rows]
        heights = [i + 0.7 * ((k + 0.5) / len(shown) - 0.5) for i, _ in rows]
        spread = [
            [m - values[0] for m, (_, values) in zip(middles, rows, strict=True)],
            [values[-1] - m for m, (_, values) in zip(middles, rows, strict=True)],
        ]
        ours = loop.startswith(OURS)
        axes.errorbar(
            middles,
            heights,
            xerr=spread,
            fmt="D" if ours else "o",
            color=f"C{k}",
            markersize=6 if ours else 4,
            elinewidth=1,
            label=loop,
        )
    axes.axvline(1, color="gray", lw=1)
    for i in range(len(networks) - 1):
        axes.axhline(i + 0.5, color="gray", lw=0.3)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_yticks(
        range(len(networks)), [f"{n['title']}\n{' x '.join(map(str, n['shape']))}" for n in networks]
    )
    axes.invert_yaxis()
    axes.set_xlabel("images per second over a loop with data in memory (range of repeats)")
    axes.set_title(f"{found['machine']['device']}, one thread, {found['machine']['date']}", fontsize=9)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
