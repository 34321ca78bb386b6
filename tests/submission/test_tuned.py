"""A submission with recipe `tuned` contains its tuning file, and `verify` and `--rerun` follow it."""

import json
import shutil
from hashlib import sha256

import pytest

from lmcbench.data.selection import open_suite_data
from lmcbench.errors import UserError
from lmcbench.leaderboard.submission_file import read_submission
from lmcbench.results.run_folder import RunFolder
from lmcbench.results.tuning import TUNING, parse_tuning
from lmcbench.running.job import TunedRecipe
from lmcbench.running.plan import plan_run
from lmcbench.running.run import run_plan
from lmcbench.spec.cells import Selection, expand
from lmcbench.spec.suite_files import load_suite
from lmcbench.submission.rerun import rerun
from lmcbench.submission.submit import submit
from lmcbench.submission.verify import suite_of, verify
from submitted import SAID, correct_meta, edit_meta, make_board
from tunings import make_tuning

SUITE = """
name = "toy"
version = 1
description = "small"
shifts = ["none"]
forks = [0]
replicates = 1
data = { name = "digits", train_size = 200, test_size = 50 }
recipes.plain = { lr = 0.2, batch_size = 32, epochs = 2 }
protocol = { alphas = 3, calibration = 20 }

[sweep]
batch_size = 32
epochs = 2
optimizers = [{ lr = [0.2, 0.4] }]

[[architectures]]
name = "lmc_linear"
recipe = "plain"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("tuned")
    file = root / "toy.toml"
    file.write_text(SUITE)
    suite = load_suite(str(file))
    table = json.loads(make_tuning(suite, suite.architectures[0], [[900] * 3, [950] * 3]).to_json())
    table["data"]["sha256"] = open_suite_data(suite).train.sha256
    (root / TUNING).write_text(json.dumps(table))
    run = RunFolder(root / "run")
    tuned = TunedRecipe.read(root / TUNING, suite, None)
    plan = plan_run(expand(tuned.suite, Selection(recipe="tuned")), run)
    for _ in run_plan(plan, run, data_dir=None, device="cpu", jobs=1):
        pass
    with pytest.raises(UserError, match="does not have the tuning file"):
        submit(run.root, "linear", SAID, make_board(root / "early"), suite_file=file)
    tuned.store(run)
    return file, submit(run.root, "linear", SAID, make_board(root), suite_file=file).folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made[1], tmp_path / "linear")


def faults(folder, made):
    return [str(fault) for fault in verify(folder, made[0]).faults]


def test_the_file_is_part_of_the_submission_and_a_claim(made, folder):
    found = verify(folder, made[0])
    assert found.sound
    assert any("tuning.json" in claim for claim in found.claimed)
    submission = read_submission(folder)
    assert submission.meta.recipe == "tuned"
    assert submission.meta.sha256.tuning == sha256((folder / TUNING).read_bytes()).hexdigest()


def test_cells_are_trained_again_with_the_tuned_recipe(made, folder):
    submission = read_submission(folder)
    again = rerun(submission, suite_of(submission, made[0]), 1, "nonce", device="cpu", jobs=1)
    assert [cell.verdict for cell in again.cells] == ["identical"]


def forge(folder, edit):
    table = json.loads((folder / TUNING).read_text())
    edit(table)
    before = sha256((folder / TUNING).read_bytes()).hexdigest()
    (folder / TUNING).write_text(json.dumps(table))
    edit_meta(folder, before, sha256((folder / TUNING).read_bytes()).hexdigest())


def swap(table):
    for one in table["settings"][0]["trainings"]:
        one["accuracy"] = 0.99
    table["choice"] = 0


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (swap, "recipe.lr"),
        (lambda t: t.update(choice=0), "by the rule it is 1"),
        (lambda t: t["suite"].update(digest="0" * 64), "with digest"),
        (lambda t: t["data"].update(sha256="0" * 64), "data.sha256"),
        (lambda t: t["architecture"].update(name="lmc_mlp"), "architecture"),
        (lambda t: (t["settings"].pop(0), t.update(choice=0)), "sweep"),
        (lambda t: t["settings"][0].update(note="\x1b[31m"), "unknown key"),
    ],
)
def test_a_forged_file_is_a_fault(made, folder, edit, reason):
    forge(folder, edit)
    found = faults(folder, made)
    assert any(reason in fault for fault in found), found
    assert not any("\x1b" in fault for fault in found)


def test_a_missing_changed_or_needless_file_is_a_fault(made, folder):
    content = (folder / TUNING).read_bytes()
    (folder / TUNING).write_bytes(content + b"\n")
    assert any("sha256.tuning" in fault for fault in faults(folder, made))
    (folder / TUNING).unlink()
    assert any("tuning.json: is missing" in fault for fault in faults(folder, made))
    (folder / TUNING).write_bytes(content)
    edit_meta(folder, 'recipe = "tuned"', 'recipe = "plain"')
    correct_meta(folder)
    found = faults(folder, made)
    assert any("tuning.json: belongs to recipe" in fault for fault in found)
    assert any("sha256.tuning: is given with recipe" in fault for fault in found)


def test_a_huge_file_is_refused_unread(made, folder):
    (folder / TUNING).write_bytes(b"[" * 1_000_000)
    assert any("at most" in fault for fault in faults(folder, made))


def test_the_choice_is_the_recipe(made):
    tuning = parse_tuning((made[1] / TUNING).read_bytes(), TUNING)
    assert tuning.recipe.lr == 0.4
