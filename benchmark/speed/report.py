"""Write the numbers of one run of the benchmark as a table and a plot."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any


def write_report(found: dict[str, Any], stem: Path) -> str:
    """Write `STEM.md` and `STEM.png`, and return the table."""
    text = (
        "\n".join([*_head(found), *(line for n in found["networks"] for line in _network(n, found))]) + "\n"
    )
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    _plot(found, stem.with_suffix(".png"))
    return text


def _head(found: dict[str, Any]) -> list[str]:
    env, best = found["environment"], found["ceilings"]
    flags = ", ".join(f"{name} {'on' if on else 'off'}" for name, on in env["flags"].items())
    return [
        f"# Speed on {env['device']}, {env['date']}",
        "",
        f"torch {env['versions']['torch']}, threads {env['threads']} of {env['cores']} cores (load "
        f"{env['load']:.0f}), {env['precision']}, {flags}; "
        f"medians of {env['repeats']}, interleaved. Measured ceilings: "
        f"{best['matmul_flop_per_s'] / 1e12:.3g} TFLOP/s (fp32 matrix product), "
        f"{best['copy_bytes_per_s'] / 1e9:.3g} GB/s (copy, read and written).",
        *(["", "**Quick run: the numbers are not meaningful.**"] if env["quick"] else []),
    ]


def _network(network: dict[str, Any], found: dict[str, Any]) -> list[str]:
    head = ["", f"## {network['title']}", ""]
    if "reason" in network:
        return [*head, f"Not measured: {network['reason']}"]
    rates = network["fleets"]["images_per_s"]
    eager, loader = rates["eager"], max(v for k, v in rates.items() if k.startswith("dataloader"))
    per_image = network["step_flop"] / network["batch_size"]
    peak = found["ceilings"]["matmul_flop_per_s"]
    rows = [
        *head,
        "| | images/s | x eager loop | x DataLoader loop | of matmul ceiling |",
        "|---|--:|--:|--:|--:|",
    ]
    rows += [
        f"| {name} | {rate:,.0f} | {rate / eager:.2f} | {rate / loader:.2f} | {rate * per_image / peak:.1%} |"
        for name, rate in rates.items()
    ]
    path = {k: statistics.median(v) for k, v in network["path"]["seconds"].items()}
    cost = {k: statistics.median(v) for k, v in network["cost"]["seconds"].items()}
    return [
        *rows,
        "",
        f"Path evaluation ({network['path']['alphas']} alphas, {network['path']['images']} images): "
        f"{path['ours']:.3g} s, {path['one after another'] / path['ours']:.2f} times as fast as a loop over "
        "alphas. "
        f"Training a fleet of {network['cost']['members']}: "
        + ", ".join(f"{name} {seconds:.3g} s" for name, seconds in cost.items())
        + ".",
    ]


def _plot(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for network in found["networks"]:
        if "reason" in network:
            continue
        rates = network["fleets"]["images_per_s"]
        counts = [int(name.split()[1]) for name in rates if name.startswith("fleet")]
        axes.plot(
            counts, [rates[f"fleet {n}"] / rates["eager"] for n in counts], "o-", label=network["title"]
        )
    axes.axhline(1, color="gray", lw=1)
    axes.set(xscale="log", xlabel="networks in the fleet", ylabel="images per second, over the eager loop's")
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.set_title(f"{found['environment']['device']}, {found['environment']['date']}", fontsize=9)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
