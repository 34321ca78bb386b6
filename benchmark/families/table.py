"""What was found about timm's families as a table."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate


def render(found: dict[str, Any]) -> str:
    """The page `benchmark/families.md`: the count, the environment, a row a family, reasons below."""
    families, environment = found["families"], found["environment"]
    ready = [name for name, answer in families.items() if answer["status"] == "ready"]
    rows = [_row(name, answer) for name, answer in families.items() if name in ready]
    others = [
        [name, f"`{a['network']}`", _cell(a["reason"])] for name, a in families.items() if name not in ready
    ]
    sides = [families[name]["side"] for name in ready]
    counts = ", ".join(f"{sides.count(side)} at {side} x {side}" for side in sorted(set(sides)))
    headers = ["family", "network", "million weights", "built for", "falls with", "stacked"]
    left = len(found["untried"])
    untried = (
        f"; **{left} families are not tried yet**, so that the share says nothing of them" if left else ""
    )
    used = environment["versions"]
    lines = [
        "# timm's families",
        "",
        "`lmcbench check` on the smallest member of each of timm's module families (or the next smallest),",
        "for 10 classes and 3 channels, at 32 x 32 pixels where it can be built for them:",
        f"**{len(ready)} of {len(families)} are ready** ({counts}){untried}.",
        f"Made by `python benchmark/families/run.py` ({environment['date']}; timm {used['timm']},",
        f"torch {used['torch']}; {environment['device']});",
        "everything that was found is in [families/results.json](families/results.json).",
        "",
        "*Falls with*: the optimizers with which the loss fell on made-up images; networks of more than",
        "10 million weights are tried with the second only where the first fails. *Stacked*: whether",
        "siblings can be trained in one pass.",
        "",
        tabulate(rows, headers=headers, tablefmt="github"),
    ]
    if others:
        headers = ["family", "network", "why not"]
        lines += ["", "## Not ready", "", tabulate(others, headers=headers, tablefmt="github")]
    if found["untried"]:
        lines += ["", "## Not tried yet", "", ", ".join(found["untried"])]
    return "\n".join(lines) + "\n"


def _row(name: str, answer: dict[str, Any]) -> list[str]:
    return [
        name,
        f"`{answer['built']}`",
        f"{answer['weights'] / 1e6:.1f}",
        f"{answer['side']} x {answer['side']}",
        ", ".join(answer["optimizers"]),
        "yes" if answer["stacked"] else "no",
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
