"""Imports point one way, light commands need no torch, and examples in docstrings run."""

import ast
import doctest
import importlib
import json
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import lmcbench
from builders import make_record, write_run, write_submission

PACKAGE = Path(lmcbench.__file__).parent
STAGES = {"data", "train", "connect", "ensemble", "stats"}
HEAVY = {"torch", "torchvision", "timm", "datasets", "sklearn"}
ABSENT = HEAVY | {"pyarrow"}
"""Not needed to list data sets; pandas uses pyarrow if it is installed."""
READERS = {"report": set(), "gate": set(), "leaderboard": {"gate"}}
"""Packages that turn records into pages and verdicts -> other readers that each may import."""
COMPOSERS = {"running", "check", "submission", "measure"}
"""Composers of several modules."""
TORCH_FREE = {
    "errors",
    "untrusted",
    "values",
    "output",
    "page",
    "latex",
    "spec",
    "results",
    "ensemble",
    "stats",
    *READERS,
    "catalogue",
    "cli",
    "__main__",
}

MODULES = {
    ".".join(["lmcbench", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if "suites" not in path.relative_to(PACKAGE).parts
}


def imported(source: str) -> set[str]:
    """Return every module that a file imports, at any place in it; names of this package in full."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer they reach into"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found


RANKS = {
    "errors": -1,
    "values": 0,
    "untrusted": 0,
    "output": 0.5,
    "page": 0.6,
    "latex": 0.6,
    "spec": 1,
    "results": 2,
    "torch_functions": 2.4,
    "memory_layout": 2.5,
    **dict.fromkeys(STAGES, 3),
    **dict.fromkeys(READERS, 4),
    "cli": 6,
    "__main__": 7,
    "__init__": 7,
}
"""Layer of each part, from the bottom up; all other parts are composers, rank 5."""


def layer(module: str) -> tuple[float, str]:
    """Return rank and part of a module of this package."""
    part = module.split(".")[1] if "." in module else "__init__"
    return RANKS.get(part, 5), part if part in RANKS else "composers"


def may_import(importer: str, target: str) -> bool:
    (rank, part), (below, other) = layer(importer), layer(target)
    if part == other == "composers":
        return not runs_up(importer, target)
    if part in READERS and other in STAGES:
        return other == "stats"
    return below < rank or part == other or other in READERS.get(part, set())


def runs_up(importer: str, target: str) -> bool:
    """Return whether a composer imports another one against the rule: only `running` may be imported."""
    inner, outer = (f"{name}.".split(".")[1] for name in (importer, target))
    return inner in COMPOSERS and outer in COMPOSERS and inner != outer and outer != "running"


@cache
def imports_of(module: str) -> set[str]:
    """Return every module that a module of this package imports."""
    return imported(MODULES[module].read_text(encoding="utf-8"))


def ours(module: str) -> set[str]:
    """Return the modules of this package that one of them imports."""
    return {name for name in imports_of(module) if name.split(".")[0] == "lmcbench"}


@pytest.mark.parametrize(
    ("importer", "target", "allowed"),
    [
        ("lmcbench.spec.suite", "lmcbench.errors", True),
        ("lmcbench.spec.suite", "lmcbench.results.record", False),
        ("lmcbench.errors", "lmcbench.spec.seeds", False),
        ("lmcbench.connect.interpolation", "lmcbench.results.curves", True),
        ("lmcbench.connect.interpolation", "lmcbench.data.pool", False),
        ("lmcbench.leaderboard.markdown", "lmcbench.connect.interpolation", False),
        ("lmcbench.connect.interpolation", "lmcbench.connect.blending", True),
        ("lmcbench.data.pool", "lmcbench.running.run", False),
        ("lmcbench.running.run", "lmcbench.data.pool", True),
        ("lmcbench.running.run", "lmcbench.cli", False),
        ("lmcbench.running.run", "lmcbench", False),
        ("lmcbench.cli", "lmcbench.running.run", True),
        ("lmcbench.submission.rerun", "lmcbench.running.run", True),
        ("lmcbench.running.run", "lmcbench.submission.verify", False),
        ("lmcbench.check.check", "lmcbench.submission.verify", False),
        ("lmcbench.leaderboard.ranking_table", "lmcbench.stats.estimates", True),
        ("lmcbench.stats.estimates", "lmcbench.leaderboard.ranking_table", False),
        ("lmcbench.leaderboard.summary_cache", "lmcbench.leaderboard.files", True),
        ("lmcbench.report.tables", "lmcbench.gate.compare", False),
        ("lmcbench.gate.compare", "lmcbench.leaderboard.trust", False),
        ("lmcbench.leaderboard.trust", "lmcbench.gate.calibration", True),
    ],
)
def test_the_rule_itself(importer, target, allowed):
    assert may_import(importer, target) is allowed


def test_imports_are_found_at_any_place():
    source = (
        "from lmcbench import catalogue, UserError\n"
        "if TYPE_CHECKING:\n    from lmcbench.spec.suite import Suite\n"
        "def f():\n    import torch.nn\n    from lmcbench.leaderboard import markdown\n"
    )
    ours = {"lmcbench.catalogue", "lmcbench", "lmcbench.spec.suite", "lmcbench.leaderboard.markdown"}
    assert imported(source) == ours | {"torch.nn"}


def test_the_files_are_found():
    parts = {layer(module)[1] for module in MODULES}
    assert parts >= STAGES | {"errors", "spec", "results", "composers", "cli", "__init__"}
    assert sum(len(ours(module)) for module in MODULES) > 100


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_one_way(module):
    assert {target for target in ours(module) if not may_import(module, target)} == set()


def test_there_is_no_import_cycle():
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            path.append(module)
            for target in sorted(ours(module) if module in MODULES else ()):
                visit(target)
            path.pop()
            done.add(module)

    for module in sorted(MODULES):
        visit(module)


@pytest.mark.parametrize(
    "module", sorted(m for m in MODULES if m.split(".")[1:2] and m.split(".")[1] in TORCH_FREE)
)
def test_light_modules_name_no_heavy_library(module):
    names = {name.split(".")[0] for name in imports_of(module)}
    # only the search of timm's registry imports timm
    allowed = {"timm"} if module == "lmcbench.catalogue" else set()
    assert names & HEAVY <= allowed


def test_every_public_name_loads_from_its_module():
    assert {*lmcbench._HOMES, "plots"} == set(lmcbench.__all__)
    assert lmcbench.plots.__name__ == "lmcbench.plots"
    assert set(lmcbench.__all__) <= set(dir(lmcbench))
    for name, home in lmcbench._HOMES.items():
        value = getattr(lmcbench, name)
        assert value.__module__ == f"lmcbench.{home}"
        assert value.__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = lmcbench.no_such_name
    assert issubclass(lmcbench.UserError, ValueError)


@pytest.mark.parametrize("home", sorted({*lmcbench._HOMES.values(), "plots"}))
def test_examples_of_the_public_api_run(home):
    assert doctest.testmod(importlib.import_module(f"lmcbench.{home}")).failed == 0


def test_importing_the_package_loads_nothing_else():
    script = (
        "import sys; before = set(sys.modules); import lmcbench; print(sorted(set(sys.modules) - before));"
        "lmcbench.UserError; print(len({'numpy', 'pandas', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded, heavy = done.stdout.splitlines()
    assert {name for name in ast.literal_eval(loaded) if "lmcbench" in name} == {"lmcbench"}
    assert heavy == "0"


# --- without torch -------------------------------------------------------------------------------

SCRIPT = """
import contextlib, io, json, sys
heavy, blocked = {heavy!r}, {blocked!r}
sys.modules.update(dict.fromkeys(blocked))
from lmcbench.cli import main
for arguments in {commands!r}:
    sys.argv = ["lmcbench", *arguments]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    loaded = [name for name in heavy if sys.modules.get(name) is not None]
    print(json.dumps([arguments, code, loaded, out.getvalue()]))
"""


@pytest.mark.parametrize("blocked", [True, False], ids=["not installed", "installed"])
def test_light_commands_work_without_torch_and_never_import_it(tmp_path, blocked):
    record = make_record(barrier_error=0.123)
    run = str(write_run(tmp_path / "run", [record]).root)
    write_submission(tmp_path / "leaderboard", "somebody", [record])
    commands = [
        [],
        ["--version"],
        ["suites"],
        ["suites", "digits"],
        ["suites", "digits", "--json"],
        ["shifts"],
        ["data"],
        ["data", "--json"],
        ["archs"],
        ["leaderboard"],
        ["leaderboard", "--check"],
        ["leaderboard", "--json"],
        ["leaderboard", "--csv", "numbers.csv"],
        ["leaderboard", run],
        ["report", run, "--findings"],
        ["report", run],
        ["run", "digits", "--arch", "lmc_mlp", "--dry-run"],
        ["new-arch", "net"],
    ]
    missing = sorted(ABSENT) if blocked else []
    script = SCRIPT.format(heavy=sorted(HEAVY), blocked=missing, commands=commands)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(arguments, code, loaded) for arguments, code, loaded, _ in answers] == [
        (arguments, 0, []) for arguments in commands
    ]
    said = {" ".join(arguments): text for arguments, _, _, text in answers}
    assert "Usage: " in said[""]
    assert said["--version"].startswith("lmcbench ")
    assert json.loads(said["suites digits --json"])["name"] == "digits"
    assert "12.3" in said[f"leaderboard {run}"]
    assert "12.3" in (tmp_path / "leaderboard" / "README.md").read_text(encoding="utf-8")


SMALL = """
name = "small"
version = 1
description = "for tests"
shifts = ["label-skew"]
forks = [0]
replicates = 1
[data]
name = "digits"
train_size = 480
test_size = 100
[protocol]
alphas = 3
calibration = 50
train_eval = 50
[recipes.short]
lr = 0.05
batch_size = 64
epochs = 1
[[architectures]]
name = "lmc_linear"
recipe = "short"
"""


def test_a_run_of_an_own_network_imports_neither_timm_nor_the_compiler_nor_scikit_learn(tmp_path):
    """Each takes 0.3 to 1 s, once a process; training and evaluation do without."""
    (tmp_path / "small.toml").write_text(SMALL)
    run = ["run", "small.toml", "--device", "cpu", "--jobs", "1", "--out", "out"]
    script = SCRIPT.format(heavy=["timm", "torch._dynamo", "sympy", "sklearn"], blocked=[], commands=[run])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[:3] == [run, 0, []]
    [path] = (tmp_path / "out" / "records").iterdir()
    record = json.loads(path.read_text())
    assert record["env"]["engine"] == "stacked"
    assert record["noise"]["gradient"]["union"]["trace"] > 0


@pytest.mark.parametrize(
    "module", [m for m in sorted(MODULES) if m.split(".")[1:2] in (["data"], ["connect"])]
)
def test_scipy_is_imported_where_it_is_used(module):
    """It takes half a second and 40 MB, which few commands need."""
    top = ast.parse(MODULES[module].read_text(encoding="utf-8")).body
    assert not any(
        "scipy" in ast.unparse(node) for node in top if isinstance(node, ast.Import | ast.ImportFrom)
    )


@pytest.mark.parametrize("package", ["torch", "timm"])
def test_measures_work_without_torch(package):
    script = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "import lmcbench\n"
        "curve = lmcbench.Curve([0, 0.5, 1], [1, 3, 1], [0, 0, 0], 5)\n"
        "probs = [[[0.75, 0.25]], [[0.25, 0.75]]]\n"
        "print(lmcbench.barrier(curve).loss_mid, lmcbench.noise_scale(1, 4, 2),\n"
        "      lmcbench.compare_predictions(probs, [0])['disagreement'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=True
    )
    assert done.stdout.split() == ["2.0", "1.0", "1.0"]


def test_the_wheel_holds_every_package():
    settings = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {name.rpartition(".")[0] for name in MODULES if MODULES[name].name != "__init__.py"}
    assert {*packages, "lmcbench.suites"} == set(settings["tool"]["setuptools"]["packages"])
