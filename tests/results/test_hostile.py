"""Records and suites with hostile values: one message, or something that no command fails on."""

import copy
import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import SUITE_TOML, make_record, toy_cell
from further import probed_record
from lmcbench.errors import UserError
from lmcbench.gate.compare import compare
from lmcbench.gate.render import render
from lmcbench.leaderboard.summary import summarize
from lmcbench.report.findings import collect_findings, render_findings
from lmcbench.report.rank_correlation import rank_correlations
from lmcbench.report.tables import make_tables
from lmcbench.results.frame import build_frame
from lmcbench.results.record_parser import parse_record
from lmcbench.spec.gate_tests import DEFAULT_GATE
from lmcbench.spec.suite_files import parse_suite
from lmcbench.stats.cells import Cells

DEEP = []
for _ in range(60):
    DEEP = [DEEP]
HOSTILE = (
    *(
        None,
        True,
        False,
        -1,
        0,
        1,
        2,
        3.5,
        -0.5,
        1e-300,
        1e59,
        1e61,
        1e308,
        10**18,
        2**63,
        2**70,
        10**39,
        10**50,
    ),
    *("", "x", "NaN", "failed", "test"),
    *("\x1b[2J\n", "\u202e", "y" * 5000, "lmcbench/cell/" + "1" * 5000, "\ud800"),
    *([], {}, [[]], [{}], ["x"], {"x": "y"}, {"": None}, [0, 1], [0, 0.5, 1], [1e308] * 21, [0.5] * 21, DEEP),
    *({"skipped": 1}, {"skipped": "x"}, {"test": 1}, {"test": {}}, {"k" * 2000: 1}, {"\x1b": {"a": [1]}}),
)


PARTS = (
    make_record(
        toy_cell(fork="2"), evidence={"predictions": {"path": "p", "sha256": "0"}, "checkpoints": []}
    ),
    probed_record("lmc_mlp", "0", 0.3),
    make_record(toy_cell(fork="independent"), status="diverged"),
)
TABLES = [json.loads(record.to_json()) for record in PARTS]
OTHERS = [
    make_record(toy_cell(fork=f, shift=s)) for f in ("0", "2") for s in ("none", "same-half", "label-skew")
]


def places(value, place=()):
    """All places in a nested value, the inner ones included."""
    yield place
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*place, key))


def mutate(table, rng):
    """Change one to three random places: replace, remove, add, double or exchange."""
    table = copy.deepcopy(table)
    for _ in range(rng.randint(1, 3)):
        # places near the root are few, those in curves many
        found = [p for p in places(table) if p]
        depth = rng.randint(1, max(map(len, found)))
        place = rng.choice([p for p in found if len(p) <= depth])
        holder = table
        for key in place[:-1]:
            holder = holder[key]
        how = rng.random()
        if how < 0.6:
            holder[place[-1]] = copy.deepcopy(rng.choice(HOSTILE))
        elif how < 0.75:
            del holder[place[-1]]
        elif isinstance(holder, dict):
            name = rng.choice(
                ["x", "n", "key", "architecture", "test", "error", "\x1b[1m", "k" * 500, *HOSTILE[18:21]]
            )
            holder[name] = copy.deepcopy(rng.choice([holder[place[-1]], *HOSTILE]))
        else:
            holder.insert(place[-1], copy.deepcopy(rng.choice([holder[place[-1]], *HOSTILE])))
        if not table:
            break
    return table


def check_message(error):
    message = str(error)
    assert len(message) < 1000
    assert all(line.isprintable() for line in message.splitlines())
    return message


def check_record(table, sets=(0, 1)):
    """Parse a record; if it is accepted, give it to every reader, alone (0) or among others (1)."""
    try:
        record = parse_record(json.dumps(table), "r.json")
    except UserError as error:
        check_message(error)
        return False
    assert parse_record(record.to_json(), "r.json") == record
    for records in [([record], [*OTHERS, record])[chosen] for chosen in sets]:
        for read in (
            build_frame,
            lambda r: make_tables(r, 0.95).render("github"),
            lambda found: render_findings(collect_findings(Cells(found))),
            rank_correlations,
            lambda r: render(compare(r, r, DEFAULT_GATE), "x"),
            lambda r: summarize("entry", "0" * 64, r),
        ):
            try:
                read(records)
            except UserError as error:
                check_message(error)
    return True


def check_suite(text):
    try:
        suite = parse_suite(text.encode("utf-8", "replace"), "s.toml")
    except UserError as error:
        for line in str(error).splitlines():
            assert len(line) <= 1000
            assert line.isprintable()
        return False
    assert len(suite.digest) == 64
    assert suite.conditions
    return True


FEW = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
USUAL = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
SEED = st.integers(0, 2**32)


def one_record(seed, sets=(0, 1)):
    rng = random.Random(seed)
    return check_record(mutate(rng.choice(TABLES), rng), sets)


@FEW
@given(SEED)
def test_a_mutated_record_is_refused_or_harms_no_command(seed):
    one_record(seed, [seed % 2])


@pytest.mark.slow_tier
@MANY
@given(SEED)
def test_many_mutated_records(seed):
    one_record(seed)


def one_suite(seed):
    rng = random.Random(seed)
    lines = SUITE_TOML.strip().splitlines()
    for _ in range(rng.randint(1, 3)):
        i = rng.randrange(len(lines))
        key, _, _ = lines[i].partition(" = ")
        value = rng.choice(TOML_VALUES)
        lines[i] = rng.choice(
            [f"{key} = {value}", "", f"{lines[i]}\n{rng.choice(TOML_KEYS)} = {value}", value]
        )
    return check_suite("\n".join(lines))


TOML_VALUES = (
    *(
        "1",
        "-1",
        "0",
        "1e300",
        "nan",
        "inf",
        "1" * 30,
        "1" * 300,
        "1" * 5000,
        "1000000000",
        "0x" + "f" * 5000,
        "true",
    ),
    *('"x"', '""', '"\\u001b[2J"', '"' + "y" * 5000 + '"', "1979-05-27", "07:32:00", "'''\n\n'''"),
    *(
        "[]",
        "[[0], 1]",
        "[0, 0]",
        "[nan]",
        '["x", 1]',
        "[" * 39 + "]" * 39,
        "[" * 5000,
        "{}",
        "{a = 1}",
        "{a = {a = []}}",
    ),
    *(
        '["none", {name = "channels", params = {groups = "' + "9" * 5000 + '/1"}}]',
        '["from:/dev/zero.safetensors"]',
    ),
    *(
        '["dirichlet"]',
        '[{name = "rotation", params = {degrees = 1e300}}]',
        '[{name = "subset", params = {fraction = []}}]',
    ),
    *("{" + ", ".join(f"a{i} = {i}" for i in range(500)) + "}", "[" + ", ".join(map(str, range(3000))) + "]"),
)
TOML_KEYS = (
    "x",
    "siblings",
    "evaluations",
    "comparator_shifts",
    "floor",
    "gate",
    "probe",
    "protocol.alphas",
    '"\\u001b"',
    "k" * 900,
)


@USUAL
@given(SEED)
def test_a_mutated_suite_is_refused_or_sound(seed):
    one_suite(seed)


@pytest.mark.slow_tier
@MANY
@given(SEED)
def test_many_mutated_suites(seed):
    one_suite(seed)


def test_the_originals_are_accepted():
    assert all(check_record(table) for table in TABLES)
    assert check_suite(SUITE_TOML)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("replicates = 1000000000", "24,000,000,000 cells"),
        ("siblings = 1000000000", "siblings: .*less than or equal to 100"),
        ("protocol.alphas = 1000000001", "protocol.alphas: .*less than or equal"),
        ("forks = [[0], 1]", "forks.0: Unknown fork list"),
        ("forks = " + "[" * 5000, "nest more than"),
        ("version = " + "1" * 5000, "is not TOML"),
        ("version = " + "1" * 300, "is not TOML: a number of more than 40 digits"),
        ("description = 1979-05-27", "description: "),
        ("floor = nan", "floor: "),
    ],
)
def test_suites_that_are_refused(change, message):
    key = change.partition(" = ")[0]
    lines = [line for line in SUITE_TOML.strip().splitlines() if line.partition(" = ")[0] != key]
    with pytest.raises(UserError, match=message) as refused:
        parse_suite("\n".join([change, *lines]).encode(), "s.toml")
    assert len(str(refused.value)) < 1000
