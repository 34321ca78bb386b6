import json

import pytest

from builders import make_record, toy_cell, toy_suite
from lmcbench.errors import UserError
from lmcbench.results.curves import Curve, barrier
from lmcbench.results.record import BarrierRecord, barrier_records, curve_records
from lmcbench.results.record_parser import check_schema, parse_record, read_record


def table(**changes):
    return json.loads(make_record().to_json()) | changes


@pytest.mark.parametrize("status", ["ok", "diverged", "failed"])
def test_a_record_survives_the_way_to_disk_and_back(status, tmp_path):
    record = make_record(toy_cell(fork="independent"), status=status, barrier_error=1 / 3)
    path = tmp_path / "x.json"
    path.write_text(record.to_json())
    again = read_record(path)
    assert again == record
    assert again.to_json() == record.to_json()
    assert json.loads(record.to_json())["schema"] == "lmcbench/cell/2"


def test_numbers_keep_their_full_precision():
    record = make_record(member_error=0.1 + 0.2, barrier_loss=1e-17)
    assert json.loads(record.to_json())["siblings"][0]["splits"]["test"]["error"] == 0.1 + 0.2


def test_keys_of_later_measures_are_kept_at_every_level():
    later = table(spectrum={"top": [1.5, None]}, protocol={**table()["protocol"], "new": True})
    later["pairs"][0] |= {"layerwise": {"conv1": [0.1]}, "geometry": {"angle": 1.5, "layers": {"a": None}}}
    later["pairs"][0]["barriers"]["test"]["loss_new_form"] = 0.5
    later["siblings"][0]["splits"]["test"]["brier"] = 0.25
    later["cost"]["energy_j"] = 3.0
    assert json.loads(parse_record(json.dumps(later), "x").to_json()) == later


def test_stored_barriers_follow_from_the_stored_curves():
    record = make_record(toy_cell(suite=toy_suite(siblings=3)))
    assert [(p.i, p.j) for p in record.pairs] == [(0, 1), (0, 2), (1, 2)]
    for pair in record.pairs:
        for split, held in pair.curves.items():
            found = barrier(Curve(record.protocol["alphas"], held.loss, held.error, held.n))
            assert BarrierRecord(**vars(found)) == pair.barriers[split]


def test_a_record_holds_the_fields_of_a_barrier_in_their_order():
    curve = Curve([0, 0.25, 0.5, 1], [1.0, 2.0, 3.0, 1.5], [0.1, 0.2, 0.4, 0.3], 8)
    [held] = barrier_records({"test": curve}).values()
    assert list(held.model_dump().items()) == list(vars(barrier(curve)).items())
    curves = curve_records({"test": curve})
    assert curves["test"].model_dump() == {"loss": [1, 2, 3, 1.5], "error": [0.1, 0.2, 0.4, 0.3], "n": 8}


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize(
    "path",
    [("cost", "train_s"), ("ensemble", "test", "disagreement"), ("env", "x"), ("recipe", "lr"), ("new",)],
)
def test_nan_and_infinity_are_refused_wherever_they_stand(path, constant):
    broken = table()
    holder = broken
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = "HERE"
    text = json.dumps(broken).replace('"HERE"', constant)
    with pytest.raises(UserError, match=f"x.json is damaged: {constant} is not JSON"):
        parse_record(text, "x.json")


def test_nan_is_not_written():
    record = make_record()
    record.env["load"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        record.to_json()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_half_a_file_is_no_record(share):
    text = make_record().to_json().encode()
    with pytest.raises(UserError, match=r"^cut\.json is damaged: "):
        parse_record(text[: int(share * len(text))], "cut.json")


@pytest.mark.parametrize(
    "schema", ["lmcbench/cell/3", "lmcbench/cell/10", "lmcbench/cell/2b", "lmcbench/cell/²"]
)
def test_a_newer_schema_says_how_to_upgrade(schema):
    # with fields that this version cannot know
    with pytest.raises(
        UserError, match=r"this lmcbench reads up to lmcbench/cell/2\. Upgrade: pip install -U"
    ):
        parse_record(json.dumps({"schema": schema, "curves": 5}), "x")


@pytest.mark.parametrize(
    "content",
    [{}, [], 3, None, {"schema": None}, {"schema": 1}, {"schema": "lmcbench/run/1"}, {"schema": "x"}],
)
def test_other_json_is_no_record(content):
    with pytest.raises(UserError, match="x is not a lmcbench/cell file"):
        parse_record(json.dumps(content), "x")


def test_an_older_schema_is_not_read_because_its_numbers_mean_something_else():
    with pytest.raises(UserError, match=r"cell/1 of an earlier version; .* Run again into another folder"):
        parse_record(json.dumps(table() | {"schema": "lmcbench/cell/1"}), "x")
    with pytest.raises(UserError, match="of an earlier version"):
        check_schema({"schema": "lmcbench/run/1"}, "x", "lmcbench/run/3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replicate": "none"}, "replicate: Input should be a valid integer"),
        ({"status": "fine"}, "status: Input should be 'ok', 'did-not-learn', 'diverged' or 'failed'"),
        (
            {"soup": {"test": {"error": None, "loss": 1, "ece": 0}}},
            "soup.test.error: Input should be a valid number",
        ),
        ({"recipe": {"lr": 0.1}}, "recipe.name: Field required"),
        ({"siblings": []}, "pairs.0: no siblings 0 and 1 among 0"),
        ({"siblings": [], "pairs": []}, "siblings: must not be empty"),
        ({"pairs": []}, "pairs: must not be empty"),
        ({"replicate": "0"}, "replicate: Input should be a valid integer"),
        ({"replicate": 10**30}, "replicate: Input should be less"),
        ({"key": "../x"}, "key: String should match"),
        ({"evidence": {"predictions": ["x"]}}, "evidence.predictions: Input should be a valid dictionary"),
        ({"evidence": {"predictions": {"path": "../x", "sha256": ""}}}, "must lie in the run folder"),
        ({"env": {"git": "x"}}, "env.git: Input should be a valid dictionary"),
        ({"env": {"versions": "x"}}, "env.versions: Input should be a valid dictionary"),
        ({"data": []}, "data: must have"),
        ({"data": table()["data"] * 2}, "data: two entries"),
        ({"data": [{**table()["data"][0], "n": "many"}]}, "data.0.n: Input should be a valid integer"),
        ({"cost": {**table()["cost"], "train_flop": 1e308}}, "cost.train_flop: Input should be less"),
        ({"cost": {**table()["cost"], "train_steps": 10**39}}, "cost.train_steps: Input should be less"),
        (
            {"pairs": [{**table()["pairs"][0], "geometry": {"distance_ab": "x"}}]},
            "geometry.distance_ab: Input",
        ),
        ({"pairs": [{**table()["pairs"][0], "align": 3}]}, "pairs.0: align.Input"),
        ({"pairs": table()["pairs"] * 2}, "two are of the same siblings"),
        ({"protocol": {"alphas": [0, 1]}}, "pairs.0.curves.train.loss: found 21 values, must be 2"),
        ({"protocol": {"alphas": [0, 0.5, 0.5, 1]}}, "protocol.alphas: must increase"),
        ({"fork": {**table()["fork"], "name": "from:a/b.safetensors@01234567"}}, "fork.name: must be from:"),
    ],
)
def test_a_field_that_is_wrong_is_named(changes, message):
    with pytest.raises(UserError) as refused:
        parse_record(json.dumps(table(**changes)), "r.json")
    assert str(refused.value).startswith("r.json is not a valid record: ")
    assert message in str(refused.value)


def test_a_message_quotes_foreign_text_in_short_printable_form():
    for changes in (
        {"schema": "x\x1b[31m" * 5000},
        {"schema": "lmcbench/cell/" + "1" * 5000},
        {"x\x1b" * 300: []},
    ):
        text = json.dumps(table(**changes) | {"env": {"versions": {"\x1b" * 200: 3}}})
        with pytest.raises(UserError) as refused:
            parse_record(text, "r.json")
        assert len(str(refused.value)) < 1000
        assert str(refused.value).isprintable()


def test_missing_fields_and_barriers_are_named():
    no_key = table()
    del no_key["key"]
    with pytest.raises(UserError, match="key: Field required"):
        parse_record(json.dumps(no_key), "x")
    no_barrier = table()
    del no_barrier["pairs"][0]["barriers"]["test"]
    with pytest.raises(UserError, match=r"pairs\.0: barriers and curves have different splits"):
        parse_record(json.dumps(no_barrier), "x")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.json cannot be read: No such file"):
        read_record(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_record(tmp_path)
