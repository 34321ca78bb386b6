"""What a submission holds beside its records: the network's source and the stored logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmcbench.board.entries.stored import classes_of, kept_splits, read_logits, test_splits
from lmcbench.errors import UserError, counted, reading
from lmcbench.results.record import Record
from lmcbench.results.store import RunFolder, labels_name
from lmcbench.results.values import SPLIT
from lmcbench.spec.architectures import imports_beside, make_architecture, source_file
from lmcbench.spec.canonical import digest_bytes


def network_source(
    sample: Record, arch: str | None, given: Path | None
) -> tuple[dict[str, bytes], str | None]:
    """The source file of a user's network as the run had it, and its sha256.

    Raises:
        UserError: where it is not there, was changed since the run, imports code beside it, or can be none.
    """
    network = sample.architecture
    definition = make_architecture(network.name, sample.recipe["name"], network.kwargs, network.adapt)
    if definition.source in ("lmcbench", "timm"):
        return {}, None
    if definition.source == "module":
        file = source_file(network.name)
    else:
        named = Path(network.name.rpartition(":")[0])
        asked = Path(arch.rpartition(":")[0]) if arch is not None and ":" in arch else None
        candidates = [p for p in (given, asked, named) if p is not None and p.is_file()]
        if not candidates:
            raise UserError(
                f"The source of {network.name} is part of its submission, and {given or named} is not there. "
                f"Say where it is: --source PATH/{named.name}"
            )
        file = candidates[0]
    with reading(file):
        content = file.read_bytes()
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
            f"{file} imports {', '.join(beside)} beside it, which is no part of a submission: nobody could "
            f"train it again. A network is one file: put what it needs into {file.name}, and run the suite "
            "again."
        )
    return {f"source/{Path(network.name.rpartition(':')[0]).name}": content}, sha256


def kept_predictions(records: Sequence[Record], folder: RunFolder) -> tuple[dict[str, bytes], str | None]:
    """The logits to keep, path -> file, and what was left out."""
    from safetensors.numpy import save

    measured = [record for record in records if record.status == "ok"]
    if not measured:
        return {}, None
    contents = {}
    for record in measured:
        path = folder.predictions(record.key)
        if not path.is_file():
            raise UserError(f"{path} is missing: the run's predictions are part of a submission.")
        with reading(path):
            contents[record.key] = path.read_bytes()
    try:
        classes = classes_of(read_logits(contents[measured[0].key], measured[0], [SPLIT])[1])
    except UserError as error:
        raise UserError(f"{folder.predictions(measured[0].key)} {error}") from None
    kept = kept_splits(measured, classes)
    found = {}
    for record in measured:
        splits = kept[record.key]
        if splits and splits != test_splits(record):
            logits, labels = read_logits(contents[record.key], record, splits)
            content = save({**logits, labels_name(SPLIT): labels[SPLIT].astype("int16")})
        else:
            content = contents[record.key]
        if splits:
            found[f"predictions/{record.key}.safetensors"] = content
    without = sum(not splits for splits in kept.values())
    reduced = None
    if without:
        reduced = f"the logits of {without} of {counted(len(measured), 'cell')}"
    elif any(kept[r.key] != test_splits(r) for r in measured):
        reduced = "logits under evaluation shifts"
    return found, reduced
