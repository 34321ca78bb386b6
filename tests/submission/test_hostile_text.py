"""What a submission says reaches no terminal and no page raw, whether it is refused or sound."""

import json
import re

import pytest

from builders import make_record, toy_cell, write_submission
from lmcbench.errors import LINE_LENGTH, SHOWN
from lmcbench.leaderboard.files import Fault
from lmcbench.leaderboard.render import HTML, MARKDOWN, render_leaderboard
from lmcbench.results.atomic_files import compress
from lmcbench.results.record_parser import parse_record
from submitted import a_pair, cli, correct_hashes, edit_meta, edit_record, edit_records, linear_submission

EVIL = "\x1b[31m\x07\x9b2J<script>alert(1)</script>|x\n\r\u202e$\\frac{$[a](javascript:b)"
LONG = "y" * 100_000


def check_terminal(text, faults=200):
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    lines = text.splitlines()
    assert len(lines) <= faults + 2
    assert max(map(len, lines)) <= LINE_LENGTH + 2 * SHOWN + 10


def test_a_fault_is_one_short_line():
    fault = Fault(f"{EVIL}{LONG}", f"{EVIL}{LONG}", f"{EVIL}{LONG}")
    check_terminal(str(fault))
    assert str(Fault("a", "b", "c: d")) == "a: b: c: d"
    assert str(Fault("a", "", "c")) == "a: c"


def edit_everything(table):
    """Hostile text in every string of a record, and as keys."""
    for name in ("recipe", "env", "evidence", "shift", "architecture", "seeds"):
        table[name] = {**(table[name] or {}), EVIL: EVIL}
    table["architecture"]["source"] = EVIL
    table["recipe"]["name"] = f"fast{EVIL}"
    table["env"]["device"] = f"cpu{EVIL}"
    table["data"][0]["name"] = EVIL
    table["ensemble"] = {EVIL: {EVIL * 2: 0.5}}
    table["reason"] = EVIL


@pytest.mark.parametrize("long", ["", LONG])
def test_verify_shows_hostile_records_safely(tmp_path, long):
    folder = linear_submission(tmp_path)
    edit_records(folder, edit_everything)
    edit_record(folder, a_pair(folder), lambda table: table.update({"status": f"{EVIL}{long}", long: 1}))
    edit_meta(folder, 'title = "', f'title = "{json.dumps(EVIL + long)[1:-1]}')
    (folder / f"a\x1b[2J\n<b>{long[:100]}.txt").write_text(EVIL)
    correct_hashes(folder)
    code, out, err = cli("verify", folder)
    assert (code, out) == (1, "")
    check_terminal(err)
    assert err.startswith("linear: refused, ")
    code, out, _ = cli("verify", folder, "--json")
    assert code == 1
    assert out.isascii()
    assert not json.loads(out)["sound"]


def test_verify_shows_claims_of_a_sound_submission_safely(tmp_path):
    folder = linear_submission(tmp_path)
    text = EVIL.replace("/", "")  # paths are refused
    edit_records(folder, lambda table: table["env"].update(device=text, trained_on=text, engine=text))
    edit_records(folder, lambda table: table["env"].update(versions={text: text, "lmcbench": text}))
    edit_records(folder, lambda table: table["env"].update(git={"commit": text, "dirty": True}))
    correct_hashes(folder)
    code, out, err = cli("verify", folder)
    assert (code, err) == (0, "")
    check_terminal(out)


def test_all_schema_faults_of_a_record_are_named_up_to_twenty(tmp_path):
    folder = linear_submission(tmp_path)
    key = a_pair(folder)
    edit_record(folder, key, lambda table: table.update(replicate="x", reason=1, seeds={}, cost={}))
    correct_hashes(folder)
    _, _, err = cli("verify", folder)
    places = re.findall(r"^  records\.jsonl\.gz, record (\d+) \((\w+)\): ([a-z_.]+): ", err, re.MULTILINE)
    assert {(n, k) for n, k, _ in places} == {(places[0][0], key)}
    assert {"replicate", "reason", "seeds.init", "cost.train_s"} <= {field for _, _, field in places}
    edit_record(folder, key, lambda t: t["soup"].update({f"split{i}": {} for i in range(40)}))
    correct_hashes(folder)
    _, _, err = cli("verify", folder)
    assert len(re.findall(rf"^  records\.jsonl\.gz, record \d+ \({key}\): ", err, re.MULTILINE)) == 21
    assert re.search(rf"\({key}\): has \d+ more faults\.$", err, re.MULTILINE)


def test_many_faults_are_cut(tmp_path):
    table = json.loads(make_record().to_json()) | {"recipe": {"name": "x"}}
    folder = write_submission(tmp_path / "board", "many", [parse_record(json.dumps(table), "x")])
    wrong = [json.dumps({**table, "replicate": "x", "reason": 1}) for _ in range(150)]
    (folder / "records.jsonl.gz").write_bytes(compress("".join(f"{line}\n" for line in wrong).encode()))
    _, _, err = cli("verify", folder)
    check_terminal(err)
    assert len(err.splitlines()) == 202
    assert re.search(r"^  and \d+ more; --json lists all\.$", err, re.MULTILINE)


def test_the_page_shows_labels_of_records_as_text(tmp_path):
    def hostile(replicate):
        table = json.loads(make_record(toy_cell(replicate=replicate)).to_json())
        table["architecture"]["kwargs"] = {EVIL: EVIL, "long": "z" * 3000}
        table["recipe"]["name"] = f"fast {EVIL}"
        table["env"]["device"] = EVIL
        table["suite"]["name"] = f"toy {EVIL}"
        return parse_record(json.dumps(table), "hostile")

    board = tmp_path / "board"
    said = {"title": "[a](javascript:b) <script>alert(1)</script> ` | ![x](y) $x$ @all"}
    records = [hostile(r) for r in range(2)]
    clean = {"suite": {"name": "toy", "version": 1, "digest": records[0].suite.digest}}
    architecture = {"architecture": {"label": "<script>alert(1)</script>|", "source": "lmcbench"}}
    write_submission(
        board, "evil", records, recipe="<script>alert(1)</script>", **said, **clean, **architecture
    )
    files = render_leaderboard(board).files
    page, readme = files[board / HTML], files[board / MARKDOWN]
    for text in (page, readme):
        assert "<script>alert" not in text
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    assert not re.search(r"(?<!\\)\]\((?!submissions/)", readme.split("\n## toy")[1])
    assert max(map(len, readme.splitlines())) < 20_000
