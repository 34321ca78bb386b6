"""submit: a run becomes one verified folder, whole or not at all, and nothing else is touched."""

import errno
import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from builders import SUITE_TOML, make_record, toy_cell, toy_suite, write_run
from lmcbench.errors import UserError
from lmcbench.leaderboard.render import render_leaderboard
from lmcbench.leaderboard.submission_file import read_submission
from lmcbench.results.atomic_files import host_id
from lmcbench.results.cell_values import architecture_label
from lmcbench.results.record_parser import read_record
from lmcbench.results.run_folder import RunFolder
from lmcbench.running.plan import plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.cells import Selection, expand
from lmcbench.spec.suite_files import load_suite
from lmcbench.submission import eligibility
from lmcbench.submission.eligibility import choose_network
from lmcbench.submission.entry import replicates_of
from lmcbench.submission.rerun import rerun
from lmcbench.submission.submit import submit
from lmcbench.submission.verify import verify
from submitted import (
    NETWORK,
    SAID,
    cli,
    correct_hashes,
    edit_json,
    edit_meta,
    edit_record,
    edit_records,
    keys,
    linear_submission,
    make_board,
    part_of_run,
    read_logits,
    read_tables,
    run_records,
    train,
)

CELLS = 10
"""Of the run that most tests submit."""


def content(root):
    """Every file below `root`."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture
def board(tmp_path):
    return make_board(tmp_path)


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(part_of_run(), tmp_path / "run")


WHOLE = """
name = "whole"
version = 1
description = "for tests"
shifts = ["none", "label-skew"]
forks = [0, 1, "independent"]
replicates = 1
[data]
name = "digits"
[recipes.short]
lr = 0.1
batch_size = 64
epochs = 2
[[architectures]]
name = "lmc_linear"
recipe = "short"
"""


def test_a_whole_run_is_complete_and_its_files_are_copied_as_they_are(board, tmp_path):
    toml = tmp_path / "whole.toml"
    toml.write_text(WHOLE)
    suite, root = load_suite(str(toml)), tmp_path / "run"
    train(expand(suite), root)
    before = content(root)
    made = submit(root, "linear", SAID, board, suite_file=toml)
    assert (made.missing, made.left_out, made.reduced) == ([], [], None)
    found = read_submission(made.folder)
    assert found.meta.complete
    assert found.meta.cells == len(found.records) == len(expand(suite)) == 6
    logits = read_logits(made.folder)
    for key, table in read_tables(made.folder).items():
        assert table == json.loads((root / "records" / f"{key}.json").read_bytes())
        assert save(logits[key]) == (root / "predictions" / f"{key}.safetensors").read_bytes()
    checked = verify(made.folder, toml)
    assert checked.sound
    [size] = [claim for claim in checked.claimed if "FLOPs" in claim]
    assert size.endswith("FLOPs of a step beyond the floor that follows from it")
    assert content(root) == before
    assert [p.name for p in (board / "submissions").iterdir()] == ["linear"]
    assert made.bytes == sum(map(len, content(made.folder).values())) < 5e6


def test_what_is_said_is_written_and_nothing_of_this_machine(board):
    arguments = ["--title", "Mine é", "--author", "A", "--author", "B", "--licence", "MIT", "--notes", "a\nb"]
    arguments += ["--name", "mine", "--pretraining", "ImageNet"]
    code, _, err = cli("submit", part_of_run(), "--leaderboard", board, *arguments)
    assert (code, err) == (0, "")
    meta = read_submission(board / "submissions" / "mine").meta
    assert (meta.title, meta.authors, meta.licence, meta.notes) == ("Mine é", ("A", "B"), "MIT", "a\nb")
    assert (meta.pretraining, meta.extra_data) == ("ImageNet", "none")
    folder = board / "submissions" / "mine"
    everything = (folder / "submission.toml").read_bytes() + gzip.decompress(
        (folder / "records.jsonl.gz").read_bytes()
    )
    for private in (str(part_of_run()), str(Path.home()) + "/", os.uname().nodename):
        assert private.encode() not in everything


def test_a_folder_left_by_a_killed_submit_is_removed_by_the_next_one(board):
    process = subprocess.Popen(["true"])
    process.wait()
    left = board / "submissions" / f".old.{host_id()}-{process.pid}-0123456789abcd.partial"
    left.mkdir()
    (left / "submission.toml").touch()
    assert cli("submit", part_of_run(), "--name", "part", "--leaderboard", board)[0] == 0
    assert [path.name for path in (board / "submissions").iterdir()] == ["part"]


def test_fewer_cells_are_accepted_and_said_with_the_commands_that_follow(board):
    code, out, _ = cli("submit", part_of_run(), "--name", "part", "--leaderboard", board)
    assert code == 0
    cells = len(expand(load_suite("digits"), Selection(["lmc_linear"])))
    assert (
        f"{cells - CELLS} cells of the suite are missing, so it is shown but not ranked: none, fork 0" in out
    )
    assert not read_submission(board / "submissions" / "part").meta.complete
    for command in (
        "git switch -c submit-part",
        f"git add {board}/submissions/part",
        'git commit -m "Submit part"',
    ):
        assert f"  {command}\n" in out
    assert "git push -u origin submit-part" in out


def test_replicates_between_that_are_left_out_count_as_missing(board, run):
    suite = load_suite("digits")
    meta = read_submission(submit(run, "mine", SAID, board).folder).meta
    record = read_record(next((run / "records").iterdir()))
    published = record.model_copy(update={"replicate": 7})
    assert replicates_of(suite, meta, [record]) == (range(suite.replicates), [])
    assert replicates_of(suite, meta, [published]) == (range(8), [])
    tuned = record.model_copy(update={"replicate": 1000})
    _, [fault] = replicates_of(suite, meta, [tuned])
    assert "found 1000 (from 1000 up they are for tuning" in fault.message


def test_a_page_counts_the_missing_cells_that_verify_does_and_shows_of_how_many_replicates(tmp_path):
    found = verify(linear_submission(tmp_path))
    cells = len(expand(load_suite("digits"), Selection(["lmc_linear"])))
    [table] = render_leaderboard(tmp_path / "leaderboard").tables
    [standing] = table.standings
    assert standing.missing == len(found.missing) == cells - CELLS


# --- refusals ------------------------------------------------------------------------------------


def refused(board, message, *arguments, code=2):
    before = content(board.parent)
    found, out, err = cli("submit", *arguments, "--leaderboard", board)
    assert (found, out) == (code, "")
    assert message in err
    assert content(board.parent) == before
    assert not list((board / "submissions").glob(".*"))


def test_what_is_no_run_is_refused(board, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(board, "empty is no run folder: it has no run.json", tmp_path / "empty", "--name", "a")
    refused(board, "none is no run folder", tmp_path / "none", "--name", "a")
    RunFolder(tmp_path / "started").claim(load_suite("digits").identity(), [])
    refused(board, "No records in", tmp_path / "started", "--name", "a")


OWN_SUITE = """
name = "pets"
version = 1
description = "A user's own images."
shifts = ["none"]
forks = [0]
replicates = 1

[data]
name = "./my pets"

[protocol]
calibration = 20

[recipes."first try"]
lr = 0.1
batch_size = 10
epochs = 1

[[architectures]]
name = "lmc_linear"
recipe = "first try"
"""


def test_an_own_suite_of_own_images_is_submitted_checked_and_repeated(tmp_path, monkeypatch):
    """A run's records name such images by the last part of their path, which is all that they may say."""
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 8), dtype=np.uint8)
    for i, pixels in enumerate(images):
        file = tmp_path / "my pets" / ("train" if i < 30 else "test") / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    toml, board = tmp_path / "my suite.toml", tmp_path / "my board"
    toml.write_text(OWN_SUITE)
    (board / "submissions").mkdir(parents=True)
    assert cli("run", toml, "--out", "run", "--jobs", "1", "--device", "cpu")[0] == 0
    code, out, err = cli("submit", "run", "--name", "mine", "--suite", toml, "--leaderboard", board)
    assert (code, err) == (0, "")
    assert f"  git add '{board}/submissions/mine'\n" in out
    checked = cli("verify", board / "submissions/mine", "--suite", toml, "--reproduce", "2", "--nonce", "x")
    assert checked[0] == 0
    run, again = (shlex.split(line) for line in checked[1].strip().splitlines()[-2:])
    assert run[:3] == ["lmcbench", "run", "FILE.toml"]
    assert run[run.index("--recipe") + 1] == "first try"
    assert again[-2:] == ["--suite", "FILE.toml"]


@pytest.mark.parametrize("slug", ["../out", "A", "a b", "a/b", ""])
def test_bad_names_are_refused(board, slug):
    refused(board, "cannot name a submission. Use up to 60", part_of_run(), "--name", slug)


def test_an_existing_name_is_kept(board, run):
    submit(run, "mine", SAID, board)
    refused(board, "mine exists already and is kept. Choose another --name", run, "--name", "mine")


def test_a_run_is_submitted_once_and_a_copy_of_a_submission_is_none(board, run):
    folder = submit(run, "mine", SAID, board).folder
    refused(board, "submissions/mine has the same records as", run, "--name", "yours", "--title", "Other")
    copy = shutil.copytree(folder, folder.with_name("copy"))
    for one, other in ((folder, "copy"), (copy, "mine")):
        [fault] = verify(one).faults
        assert (
            str(fault) == f"records.jsonl.gz: has the same records as submission {other}; keep one of them."
        )
    code, out, err = cli("leaderboard", "--leaderboard", board)
    assert (code, out) == (2, "")
    assert f"{copy} and {folder} have the same records" in err
    assert not (board / "README.md").exists()
    # a run that was extended is another one
    shutil.rmtree(folder)
    run_records(run)[0].unlink()
    assert submit(run, "part", SAID, board).verification.sound
    assert verify(copy).sound


def test_a_folder_that_is_no_leaderboard_is_refused(tmp_path, run):
    code, _, err = cli("submit", run, "--name", "a", "--leaderboard", tmp_path / "none")
    assert code == 2
    assert "none is no leaderboard: it has no folder 'submissions'. Go to the root of a clone" in err


def test_a_clone_s_leaderboard_without_an_entry_takes_the_first(tmp_path, run):
    """Git keeps no empty folder `submissions`."""
    board = tmp_path / "leaderboard"
    board.mkdir()
    (board / "SUBMITTING.md").write_text("# Submitting\n")
    assert cli("leaderboard", "--leaderboard", board)[0] == 0
    code, _, err = cli("submit", run, "--name", "first", "--leaderboard", board)
    assert (code, err) == (0, "")
    assert verify(board / "submissions" / "first").sound


def test_without_a_leaderboard_one_is_begun_unless_it_was_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("submit", part_of_run(), "--name", "part")
    assert (code, err) == (0, "")
    assert out.startswith("There was no leaderboard here: started one, leaderboard.\nWrote leaderboard/sub")
    assert "copy the folder to the same place in a clone of lmcbench's repository" in out
    assert verify(Path("leaderboard/submissions/part")).sound
    code, out, _ = cli("leaderboard")
    assert (code, out.splitlines()[0]) == (0, "Wrote leaderboard/README.md.")
    # the next one finds it there
    fewer = shutil.copytree(part_of_run(), tmp_path / "fewer")
    run_records(fewer)[0].unlink()
    code, out, _ = cli("submit", fewer, "--name", "again")
    assert (code, out.startswith("Wrote leaderboard/submissions/again")) == (0, True)
    code, _, err = cli("submit", part_of_run(), "--name", "part", "--leaderboard", "leaderbord")
    assert (code, Path("leaderbord").exists()) == (2, False)
    assert "leaderbord is no leaderboard" in err


def test_a_leaderboard_that_could_not_be_begun_leaves_nothing(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    edit_json(run_records(run)[0], lambda t: t["siblings"][0]["splits"]["test"].update(error=0.5))
    before = content(tmp_path)
    code, _, err = cli("submit", run, "--name", "a")
    assert (code, Path("leaderboard").exists(), content(tmp_path)) == (2, False, before)
    assert "The run does not verify, so nothing was written" in err
    # what is wrong with the run is told before anything about a leaderboard
    code, _, err = cli("submit", tmp_path / "none", "--name", "a", "--leaderboard", "nowhere")
    assert (code, "none is no run folder" in err) == (2, True)


def test_siblings_of_a_given_checkpoint_are_no_submission(board, run):
    for path in run_records(run):
        key = path.stem[::-1]
        edit_json(
            path,
            lambda t, key=key: t.update(
                key=key, fork={**t["fork"], "name": f"from:{key}.safetensors@01234567"}
            ),
        )
        path.rename(path.with_stem(key))
    refused(board, "contains only siblings of given checkpoints (label-skew, fork from:", run, "--name", "a")


def test_one_of_several_architectures_must_be_chosen(board, tmp_path):
    suite = load_suite("digits")
    cells = expand(suite, Selection((), ["none"], ["0"], range(1)))
    run = write_run(tmp_path / "several", [make_record(cell) for cell in cells]).root
    labels = " or ".join(
        f"--arch {shlex.quote(label)}" for label in sorted(a.label for a in suite.architectures)
    )
    refused(board, f"Choose: {labels}", run, "--name", "a")
    refused(
        board,
        "The run has no architecture 'lmc_resnet'. It has lmc_linear (recipe linear), lmc_",
        run,
        "--name",
        "a",
        "--arch",
        "lmc_resnet",
    )
    refused(board, "Choose: --arch lmc_linear or --arch lmc_mlp", run, "--name", "a", "--arch", "lmc_*")


def test_failed_cells_are_no_results(board, run):
    edit_json(run_records(run)[0], lambda t: t.update(status="failed", reason="training failed: x"))
    refused(board, "1 cell of", run, "--name", "a", code=5)
    refused(
        board,
        "A failed cell is no result, a diverged one is. Run the suite again",
        run,
        "--name",
        "a",
        code=5,
    )


def test_edited_records_are_refused_with_their_faults(board, run):
    first, second, *_ = [path for path in run_records(run) if json.loads(path.read_text())["pairs"]]
    edit_json(first, lambda t: t["pairs"][0]["barriers"]["test"].update(error_chord=0.0001))
    edit_json(second, lambda t: t["seeds"].update(shift=3))
    refused(board, "The run does not verify, so nothing was written:", run, "--name", "a")
    refused(
        board,
        f"records.jsonl.gz#{first.stem}: pairs.0.barriers.test.error_chord: found 0.0001",
        run,
        "--name",
        "a",
    )
    refused(board, f"records.jsonl.gz#{second.stem}: seeds.shift: not as derived", run, "--name", "a")


def test_missing_or_damaged_predictions_are_refused(board, run):
    path = next((run / "predictions").iterdir())
    path.write_bytes(path.read_bytes()[:100])
    refused(board, "is not safetensors", run, "--name", "a")
    path.unlink()
    refused(board, "is missing: the run's predictions are part of a submission", run, "--name", "a")


def test_a_run_of_an_own_suite_needs_its_file_and_an_edited_one_is_refused(board, tmp_path):
    toml = tmp_path / "toy.toml"
    toml.write_text(SUITE_TOML)
    run = write_run(tmp_path / "toy", [make_record(toy_cell())]).root
    refused(board, "is a run of toy version 1, which is not published", run, "--name", "a")
    refused(board, "the run's predictions are part of a submission", run, "--name", "a", "--suite", toml)
    toml.write_text(SUITE_TOML.replace("lr = 0.1", "lr = 0.2"))
    refused(board, "They are not comparable: run the published one.", run, "--name", "a", "--suite", toml)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_full_disk_leaves_nothing_behind(board, run, monkeypatch, number, after):
    from lmcbench.submission import submit as module

    real, written = module.write_atomic, []

    def fails(path, text):
        if len(written) == after:
            raise OSError(number, os.strerror(number))
        written.append(path)
        real(path, text)

    monkeypatch.setattr(module, "write_atomic", fails)
    refused(board, f"cannot be written: {os.strerror(number)}. Nothing was left there", run, "--name", "a")
    if after:
        assert written


def test_a_rename_that_fails_leaves_nothing_behind(board, run, monkeypatch):
    real = Path.rename

    def fails(self, target):
        if self.name.endswith(".partial") and self.is_dir():
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    refused(board, "cannot be written: Read-only file system", run, "--name", "a")


def test_a_read_only_folder_is_refused_before_anything_is_read(board, run, monkeypatch):
    real = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: mode != os.W_OK and real(p, mode))
    refused(board, "submissions is read-only", run, "--name", "a")


# --- an own network ------------------------------------------------------------------------------


@pytest.fixture
def own_run(tmp_path):
    (tmp_path / "nets").mkdir()
    file = tmp_path / "nets" / "mine.py"
    file.write_text(NETWORK)
    folder = RunFolder(tmp_path / "own")
    selection = Selection([f"{file}:tiny"], ["none"], ["0"], range(1), "linear")
    plan = plan_run(expand(load_suite("digits"), selection), folder)
    for _ in run_plan(plan, folder, data_dir=None, device="cpu", jobs=1):
        pass
    return folder.root


def test_an_own_networks_source_is_part_of_its_submission(board, own_run, tmp_path, monkeypatch):
    file = tmp_path / "nets" / "mine.py"
    refused(board, "but mine.py is not there. Give its place: --source PATH/mine.py", own_run, "--name", "a")
    boards = [tmp_path / name / "leaderboard" for name in ("by-source", "by-arch", "here")]
    for other in boards:
        (other / "submissions").mkdir(parents=True)
    by_source = submit(own_run, "a", SAID, boards[0], source=file).folder
    by_arch = submit(own_run, "b", SAID, boards[1], arch=f"{file}:tiny").folder
    monkeypatch.chdir(tmp_path / "nets")
    here = submit(own_run, "c", SAID, boards[2]).folder
    for folder in (by_source, by_arch, here):
        assert (folder / "source" / "mine.py").read_text() == NETWORK
        meta = read_submission(folder).meta
        assert meta.architecture.sha256 == sha256(NETWORK.encode()).hexdigest()
        assert meta.architecture.label == "mine.py:tiny"
        assert verify(folder).sound
        [size] = [claim for claim in verify(folder).claimed if "FLOPs" in claim]
        assert "which have no floor in a network of the author's own" in size
    with monkeypatch.context() as patch:
        patch.setattr(eligibility, "imports_beside", lambda file: ["blocks.py"])
        refused(board, "mine.py imports blocks.py beside it, which is not part of", own_run, "--name", "d")
    file.write_text(NETWORK + "\n# tuned\n")
    refused(board, "mine.py was changed since the run (fingerprint ", own_run, "--name", "d")


def test_a_changed_source_is_refused_by_verify_without_importing_it(board, own_run, tmp_path):
    folder = submit(own_run, "a", SAID, board, source=tmp_path / "nets" / "mine.py").folder
    touched = tmp_path / "was-imported"
    bad = f"open({str(touched)!r}, 'w')\n" + NETWORK
    (folder / "source" / "mine.py").write_text(bad)
    correct_hashes(folder)
    [fault] = verify(folder).faults
    assert (fault.file, fault.field) == ("submission.toml", "architecture.sha256")
    old, new = (sha256(text.encode()).hexdigest() for text in (NETWORK, bad))
    edit_meta(folder, old, new)
    correct_hashes(folder)
    found = "\n".join(map(str, verify(folder).faults))
    assert "architecture: found {'name': 'mine.py:tiny'" in found
    assert "key: found " in found
    edit_records(folder, lambda t: t["architecture"].update(fingerprint=new[:16]))
    correct_hashes(folder)
    [fault] = verify(folder).faults
    assert fault.field == "key"
    assert not touched.exists()
    (folder / "source" / "mine.py").unlink()
    correct_hashes(folder)
    assert "source/mine.py: is missing; it defines mine.py:tiny." in "\n".join(
        map(str, verify(folder).faults)
    )


def test_json_of_a_verification(board, run):
    folder = submit(run, "mine", SAID, board).folder
    code, out, err = cli("verify", folder, "--json")
    found = json.loads(out)
    assert (code, err, found["sound"], found["cells"], found["faults"]) == (0, "", True, CELLS, [])
    assert found["level"] == "rescored"
    (folder / "records.jsonl.gz").unlink()
    code, out, err = cli("verify", folder, "--json")
    assert (code, err) == (1, "")
    assert json.loads(out)["faults"][0]["file"] == "records.jsonl.gz"
    code, out, err = cli("verify", folder)
    assert (code, out) == (1, "")
    assert err.startswith("mine: refused, 1 fault:\n  records.jsonl.gz: is missing")


def test_exit_codes_of_verify(board, run):
    folder = submit(run, "mine", SAID, board).folder
    edit_record(folder, keys(folder)[0], lambda t: t.update(schema="lmcbench/cell/3"))
    code, _, err = cli("verify", folder)
    assert code == 2
    assert "Upgrade: pip install -U lmcbench." in err
    assert cli("verify", board / "none")[0] == 2
    code, _, err = cli("verify", board)
    assert code == 2
    assert "leaderboard is no submission: it has none of its files" in err


# --- everything a suite can ask for --------------------------------------------------------------

ODD = """
name = "odd"
version = 1
description = "transformed views, evaluation shifts, three siblings, comparators and BatchNorm"
shifts = ["none", "corruption"]
forks = [1, "independent", "whole-budget"]
evaluations = ["gaussian_noise-3"]
replicates = 1
siblings = 3
[data]
name = "digits"
train_size = 200
test_size = 100
[protocol]
alphas = 5
calibration = 64
train_eval = 50
[recipes.short]
lr = 0.2
batch_size = 50
epochs = 2
[[architectures]]
name = "lmc_resnet"
recipe = "short"
kwargs = { width = 2 }
"""


def test_whatever_a_run_writes_verifies_and_reruns_alike(board, tmp_path):
    toml = tmp_path / "odd.toml"
    toml.write_text(ODD)
    folder = RunFolder(tmp_path / "odd")
    suite = load_suite(str(toml))
    for _ in run_plan(plan_run(expand(suite), folder), folder, data_dir=None, device="cpu", jobs=1):
        pass
    made = submit(folder.root, "odd", SAID, board, suite_file=toml)
    assert (made.missing, made.verification.faults) == ([], [])
    assert made.verification.notes[0] == "The suite is not a published one; such a submission is not merged."
    assert "that the test labels are the data set's (the same in all cells)" in made.verification.claimed
    report = rerun(read_submission(made.folder), suite, 3, "x", device="cpu", jobs=1)
    assert [cell.verdict for cell in report.cells] == ["identical"] * 3
    single = next(t for t in read_tables(made.folder).values() if t["fork"]["name"] == "whole-budget")
    assert single["pairs"] == []


def test_a_name_in_full_is_that_network_though_another_has_arguments():
    networks = [
        {"name": "lmc_mlp", "recipe": r, "kwargs": k} for r, k in (("slow", {}), ("fast", {"depth": 1}))
    ]
    suite = toy_suite(architectures=networks)
    cells = expand(suite, Selection(replicates=range(1)))
    records = [make_record(cell) for cell in cells]
    for name in ("lmc_mlp", "lmc_mlp(depth=1)"):
        assert {architecture_label(r) for r in choose_network(records, name)} == {name}
    with pytest.raises(UserError, match=r"Choose: --arch lmc_mlp or --arch 'lmc_mlp\(depth=1\)'$"):
        choose_network(records, "lmc_*")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "lmc_next"}, "Unknown architecture 'lmc_next'."),  # of a newer version
        ({"name": "my net"}, "Architecture 'my net' is not a valid name"),
    ],
)
def test_a_network_that_this_version_cannot_have_is_refused_in_one_line(board, run, change, said):
    folder = submit(run, "a", SAID, board).folder
    for path in run.glob("records/*.json"):
        edit_json(path, lambda t: t["architecture"].update(change))
    edit_records(folder, lambda t: t["architecture"].update(change))
    with pytest.raises(UserError, match=re.escape(said)) as refusal:
        submit(run, "b", SAID, board)
    assert "\n" not in str(refusal.value)
    correct_hashes(folder)
    [message] = {fault.message for fault in verify(folder).faults if fault.field == "architecture"}
    assert message.startswith(said)
    assert "\n" not in message
