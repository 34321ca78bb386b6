"""What of a run is submitted, and whether it may be: suite, network, cells, source and tuning file."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from lmcbench.errors import UserError, counted
from lmcbench.results.cell_values import architecture_label
from lmcbench.results.cell_values import cell_text as record_text
from lmcbench.results.record import Record
from lmcbench.results.run_folder import RunFolder, read_header
from lmcbench.results.tuning import TUNING_BYTES, tuning_key
from lmcbench.spec.architectures import imports_beside, make_architecture, source_file
from lmcbench.spec.canonical import digest_bytes
from lmcbench.spec.forks import FROM
from lmcbench.spec.session_networks import PREFIX
from lmcbench.spec.suite import Suite
from lmcbench.spec.suite_files import load_suite
from lmcbench.spec.sweep import TUNED
from lmcbench.untrusted import read_bytes

EXIT_CELLS = 5
"""Exit code where cells failed."""


def suite_of(run: Path, suite_file: Path | None) -> Suite:
    """Return the suite of a run: the published one, or the one in `suite_file`.

    Raises:
        UserError: if `run` is no run folder, or of a suite with another digest.
    """
    header = RunFolder(run).header
    if not header.is_file():
        raise UserError(f"{run} is no run folder: it has no run.json. Make one with 'lmcbench run SUITE'.")
    found = read_header(header)["suite"]
    try:
        suite = load_suite(f"{found['name']}-v{found['version']}" if suite_file is None else str(suite_file))
    except UserError as error:
        if suite_file is not None:
            raise
        raise UserError(
            f"{run} is a run of {found['name']} version {found['version']}, which is not published. {error} "
            "Submissions are of published suites."
        ) from None
    if found["digest"] != suite.digest:
        raise UserError(
            f"{run} is a run of {found['name']} version {found['version']} with digest "
            f"{found['digest'][:12]}; the published one has {suite.digest[:12]}. "
            "They are not comparable: run the published one."
        )
    return suite


def choose_network(records: Sequence[Record], arch: str | None) -> list[Record]:
    """Return the records of one architecture with one recipe.

    Args:
        records: of a run.
        arch: a label, `LABEL/RECIPE`, a name or a glob; None if the run has one architecture.

    Raises:
        UserError: if it matches none or several.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((architecture_label(record), record.recipe["name"]), []).append(record)
    listed = ", ".join(f"{label} (recipe {recipe})" for label, recipe in sorted(groups))
    wanted = arch
    if arch is not None and Path(arch.rpartition(":")[0]).suffix == ".py":
        wanted = Path(arch.rpartition(":")[0]).name + ":" + arch.rpartition(":")[2]
    chosen = {}
    for (label, recipe), members in sorted(groups.items()):
        called = (label, f"{label}/{recipe}", members[0].architecture.name)
        if wanted is None or any(name == wanted or fnmatchcase(name, wanted) for name in called):
            chosen[label, recipe] = members
    # a full name takes precedence over the same name with arguments
    exact = {place: members for place, members in chosen.items() if place[0] == wanted}
    chosen = exact or chosen
    if not chosen:
        raise UserError(f"The run has no architecture {arch!r}. It has {listed}.")
    if len(chosen) > 1:
        labels = [label for label, _ in chosen]
        names = [f"{a}/{recipe}" if labels.count(a) > 1 else a for a, recipe in chosen]
        raise UserError(
            f"A submission is of one architecture with one recipe; the run has {listed}. "
            f"Choose: --arch {' or --arch '.join(map(shlex.quote, names))}"
        )
    [members] = chosen.values()
    return sorted(members, key=lambda r: (r.replicate, r.key))


def check_measured(records: Iterable[Record], run: Path) -> None:
    """Raise `UserError` if a cell failed, which is no result."""
    failed = [r for r in records if r.status == "failed"]
    if failed:
        raise UserError(
            f"{counted(len(failed), 'cell')} of {run} failed ({record_text(failed[0])}: "
            f"{failed[0].reason}). A failed cell is no result, a diverged one is. Run the suite "
            "again: it repeats only these.",
            exit_code=EXIT_CELLS,
        )


def network_source(
    sample: Record, arch: str | None, given: Path | None
) -> tuple[dict[str, bytes], str | None]:
    """Return the source file of a user's network, by its path in the submission, and its sha256.

    Raises:
        UserError: if it is missing, was changed since the run, or imports code beside it.
    """
    network = sample.architecture
    definition = make_architecture(network.name, sample.recipe["name"], network.kwargs, network.adapt)
    if definition.source in ("lmcbench", "timm"):
        return {}, None
    if definition.source == "python":
        function = network.name.removeprefix(PREFIX)
        raise UserError(
            f"{network.name} was defined in a Python session and cannot be submitted, because nobody else "
            f"could train it. Put it into a file and run the suite again with --arch FILE.py:{function}."
        )
    if definition.source == "module":
        file = source_file(network.name)
    else:
        named = Path(network.name.rpartition(":")[0])
        asked = Path(arch.rpartition(":")[0]) if arch is not None and ":" in arch else None
        candidates = [p for p in (given, asked, named) if p is not None and p.is_file()]
        if not candidates:
            raise UserError(
                f"The source of {network.name} is part of its submission, but {given or named} is not there. "
                f"Give its place: --source PATH/{named.name}"
            )
        file = candidates[0]
    content = read_bytes(file)
    sha256 = digest_bytes(content)
    if sha256[:16] != network.fingerprint:
        raise UserError(
            f"{file} was changed since the run (fingerprint {sha256[:16]}, the records have "
            f"{network.fingerprint}). Restore it, or run the suite again with the file as it is."
        )
    if definition.source == "module":
        return {}, sha256
    if beside := imports_beside(file):
        raise UserError(
            f"{file} imports {', '.join(beside)} beside it, which is not part of a submission, so nobody "
            f"could train it again. A network is one file: put what it needs into {file.name}, and run the "
            "suite again."
        )
    return {f"source/{Path(network.name.rpartition(':')[0]).name}": content}, sha256


def tuning_file(folder: RunFolder, sample: Record) -> bytes | None:
    """Return the tuning file of a run with recipe `tuned`; None for other recipes.

    Raises:
        UserError: if the run folder does not have it.
    """
    if sample.recipe["name"] != TUNED:
        return None
    network = sample.architecture
    identity = network.model_dump(include={"name", "kwargs", "fingerprint", "adapt"}, exclude_none=True)
    file = folder.tuning(tuning_key(identity))
    if not file.exists():
        raise UserError(
            f"{folder.root} does not have the tuning file of {architecture_label(sample)}. Run the suite "
            "into it again, with --recipe tuned --tuning FILE; finished cells are not repeated."
        )
    return read_bytes(file, limit=TUNING_BYTES)


def no_cell_error(run: Path, suite: Suite, records: Sequence[Record], replicates: range) -> UserError:
    """Return the error that says why none of the records can be submitted."""
    if all(record.fork.name.startswith(FROM) for record in records):
        return UserError(
            f"{run} contains only siblings of given checkpoints ({record_text(records[0])}), which cannot be "
            f"submitted: they are not cells of suite {suite.name}, and nobody else has the checkpoint."
        )
    return UserError(
        f"{run} contains no cell of suite {suite.name} on replicates {replicates.start} to "
        f"{replicates.stop - 1} for {architecture_label(records[0])}: "
        f"{'; '.join(map(record_text, records[:3]))}."
    )
