"""Keep the records of a long run in one file, and continue the run from it on another machine.

python benchmark/evidence/records.py pack RUN FILE       write FILE (records.jsonl.gz) from a run folder
python benchmark/evidence/records.py unpack FILE RUN     write the records into a run folder that lacks them

After `unpack`, `lmcbench run SUITE --out RUN` trains the cells that have no record. Weights and predictions
are not kept, so the further measures (`--measure`) of restored cells must be in their records already.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lmcbench.results.atomic_files import write_atomic
from lmcbench.results.record_files import encode_records, read_records
from lmcbench.results.run_folder import RunFolder


def pack(run: Path, file: Path) -> int:
    """Write all records of a run into one file, the same bytes for the same records; return their number."""
    records = read_records(run)
    write_atomic(file, encode_records(json.loads(record.to_json()) for record in records))
    return len(records)


def unpack(file: Path, run: Path) -> int:
    """Write the records of a file that a run folder lacks; return their number."""
    folder = RunFolder(run)
    records = read_records(file)
    missing = [record for record in records if not folder.record(record.key).exists()]
    for record in missing:
        folder.claim(record.suite.model_dump(), record.data)
        write_atomic(folder.record(record.key), record.to_json())
    return len(missing)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("pack", "unpack"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    act = pack if options.action == "pack" else unpack
    print(f"Wrote {act(options.source, options.target)} records to {options.target}.")


if __name__ == "__main__":
    main()
