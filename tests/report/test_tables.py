import json
import random

import pytest
from scipy import stats

from builders import make_record, toy_cell, toy_suite
from lmcbench.report.tables import make_tables
from lmcbench.results.record_parser import parse_record


def row(table, **where):
    """The only row of a table with these values, as a dict."""
    rows = [r for r in table.to_dict("records") if all(r[k] == v for k, v in where.items())]
    assert len(rows) == 1
    return rows[0]


def half_width(values):
    return stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


def replicates(values, **cell):
    """One record a replicate; None: it diverged."""
    return [
        make_record(toy_cell(replicate=r, **cell), status="diverged")
        if value is None
        else make_record(toy_cell(replicate=r, **cell), barrier_error=value)
        for r, value in enumerate(values)
    ]


def test_cells_hold_means_over_replicates_in_percent():
    early, late = [0.10, 0.13, 0.22], [0.01, 0.02, 0.03]
    board = make_tables([*replicates(early), *replicates(late, fork="2")])
    assert board.connectivity.to_dict("records") == [
        {
            "architecture": "lmc_mlp",
            "recipe": "fast",
            "shift": "none",
            "0": f"15.0 ± {100 * half_width(early):.1f}",
            "2": f"2.0 ± {100 * half_width(late):.1f}",
            "n": "3",
            "diverged": "0/6",
        }
    ]


def test_what_siblings_are_worth():
    records = [
        make_record(
            toy_cell(fork=fork, replicate=r),
            member_error=0.10 + 0.02 * r,
            ensemble_error=0.08,
            soup_error=0.3,
            disagreement=d,
        )
        for r in range(2)
        for fork, d in (("0", 0.05), ("2", 0.04), ("independent", 0.2))
    ]
    wide = 100 * half_width([0.10, 0.12])
    board = make_tables(records)
    # the earliest fork, and independent networks beside it
    assert board.ensembles["fork"].tolist() == ["0", "independent"]
    found = row(board.ensembles, fork="0")
    found.pop("gain without priors", None)
    assert found == {
        "architecture": "lmc_mlp",
        "recipe": "fast",
        "shift": "none",
        "fork": "0",
        "member": f"89.0 ± {wide:.1f}",
        "disagreement": "5.0 ± 0.0",
        "ensemble": "92.0 ± 0.0",
        "gain": f"+3.0 ± {wide:.1f}",
        "soup": "70.0 ± 0.0",
    }
    assert row(board.ensembles, fork="independent")["disagreement"] == "20.0 ± 0.0"


def test_pairs_are_averaged_inside_a_replicate_and_are_no_extra_n():
    table = json.loads(make_record(toy_cell(suite=toy_suite(siblings=3))).to_json())
    for pair, value in zip(table["pairs"], (0.1, 0.2, 0.6), strict=True):
        pair["barriers"]["test"]["error_chord"] = value
    board = make_tables([parse_record(json.dumps(table), "x")])
    found = row(board.connectivity)
    assert (found["0"], found["n"]) == ("30.0", "1")


def test_one_replicate_has_no_interval():
    board = make_tables([make_record(barrier_error=0.123)])
    assert row(board.connectivity)["0"] == "12.3"
    assert row(board.ensembles)["gain"] == "+1.0"
    assert "no interval for n = 1" in board.notes[0]


def test_diverged_cells_are_counted_and_never_averaged():
    values = [0.1, None, 0.2, None, 0.3]
    board = make_tables([*replicates(values), *replicates([0.5] * 5, fork="2")])
    found = row(board.connectivity)
    assert found["0"] == f"20.0 ± {100 * half_width([0.1, 0.2, 0.3]):.1f} (3)"
    assert found["2"] == "50.0 ± 0.0"
    assert (found["n"], found["diverged"]) == ("5", "2/10")
    assert row(board.ensembles)["member"] == "95.0 ± 0.0 (3)"


def test_a_run_in_which_everything_diverged_has_a_table():
    board = make_tables(replicates([None, None]))
    assert row(board.connectivity) == {
        "architecture": "lmc_mlp",
        "recipe": "fast",
        "shift": "none",
        "0": "–",
        "n": "2",
        "diverged": "2/2",
    }
    assert {row(board.ensembles)[k] for k in ("member", "disagreement", "ensemble", "gain", "soup")} == {"–"}
    assert "nan" not in board.render("github").lower()


def test_failed_cells_are_no_results_but_shown():
    board = make_tables([*replicates([0.1, None]), make_record(toy_cell(replicate=2), status="failed")])
    assert row(board.connectivity)["diverged"] == "1/3, 1 failed"
    assert row(board.connectivity)["0"] == "10.0 (1)"


def test_a_fork_that_was_not_run_is_a_dash():
    board = make_tables(
        [*replicates([0.1], fork="0"), *replicates([0.2], fork="2", architecture="lmc_linear")]
    )
    assert row(board.connectivity, architecture="lmc_mlp")["2"] == "–"
    assert row(board.connectivity, architecture="lmc_linear")["0"] == "–"


def test_rows_below_the_floor_are_marked_and_the_note_says_why():
    good = make_record(toy_cell("lmc_mlp"), member_error=0.1)
    dead = make_record(toy_cell("lmc_linear"), member_error=0.11)
    board = make_tables([good, dead], floor=0.9)
    assert board.connectivity["architecture"].tolist() == ["lmc_linear", "lmc_mlp"]
    assert board.connectivity["shift"].tolist() == board.ensembles["shift"].tolist() == ["none *", "none"]
    assert board.notes[-1] == "* mean member accuracy below the suite's floor of 90 %: not ranked."
    assert not any("floor" in note for note in make_tables([good], floor=0.9).notes)


def test_forks_are_columns_by_epoch_and_rows_go_from_small_to_large_and_control_to_shift():
    records = [
        make_record(toy_cell(architecture, shift, fork))
        for architecture in ("lmc_mlp", "lmc_linear")
        for shift in ("label-skew", "disjoint-halves", "same-half", "none")
        for fork in ("independent", "2", "0")
    ]
    board = make_tables(records)
    assert list(board.connectivity.columns) == [
        *["architecture", "recipe", "shift", "0", "2", "independent", "n", "diverged"]
    ]
    shifts = ["none", "same-half", "disjoint-halves", "label-skew"]
    assert list(board.connectivity[["architecture", "shift"]].itertuples(index=False, name=None)) == [
        (architecture, shift) for architecture in ("lmc_linear", "lmc_mlp") for shift in shifts
    ]
    ten = toy_suite(
        forks=[10, 2, "independent"],
        recipes={"fast": {"lr": 1, "batch_size": 9, "epochs": 11}},
        architectures=[{"name": "lmc_mlp", "recipe": "fast"}],
    )
    forks = [make_record(toy_cell(fork=f, suite=ten)) for f in ("independent", "10", "2")]
    assert list(make_tables(forks).connectivity.columns[3:6]) == ["2", "10", "independent"]
    mixed = toy_suite(
        forks=["50%", "30%", 2, 1, 0, "independent"],
        recipes={"slow": {"lr": 1, "batch_size": 9, "epochs": 16}},
        architectures=[{"name": "lmc_mlp", "recipe": "slow"}],
    )
    order = ["0", "1", "2", "30%", "50%", "independent"]
    forks = [make_record(toy_cell(fork=fork, suite=mixed)) for fork in sorted(order)]
    assert list(make_tables(forks).connectivity.columns[3:9]) == order


def test_records_without_the_length_of_their_recipe_have_tables():
    """Records from elsewhere may lack it: shares then come before epochs."""
    suite = toy_suite(forks=["30%", 1, 0, "independent"])
    records = [make_record(toy_cell(fork=fork, suite=suite)) for fork in ("independent", "1", "30%", "0")]
    short = [
        record.model_copy(update={"recipe": {k: v for k, v in record.recipe.items() if k != "epochs"}})
        for record in records
    ]
    assert list(make_tables(short).connectivity.columns[3:7]) == ["0", "30%", "1", "independent"]


@pytest.mark.parametrize("seed", range(3))
def test_the_table_does_not_depend_on_the_order_of_records(seed):
    rng = random.Random(seed)
    records = [
        make_record(toy_cell(a, s, f, r), barrier_error=rng.random(), member_error=rng.random() / 9)
        for a in ("lmc_mlp", "lmc_linear")
        for s in ("none", "same-half")
        for f in ("0", "independent")
        for r in range(3)
    ]
    before = make_tables(records, 0.95).render("github")
    rng.shuffle(records)
    assert make_tables(records, 0.95).render("github") == before


def test_a_rounded_zero_has_no_minus():
    board = make_tables([make_record(member_error=0.1, ensemble_error=0.1004)])
    assert row(board.ensembles)["gain"] == "+0.0"
    loss = make_tables([make_record(member_error=0.1, ensemble_error=0.12)])
    assert row(loss.ensembles)["gain"] == "-2.0"


def test_rendered_for_markdown_and_for_terminals():
    board = make_tables([make_record(barrier_error=0.123)])
    markdown = board.render("github").splitlines()
    assert markdown[0].startswith("### Error barrier on the test set (chord form, percentage points")
    assert "| lmc_mlp" in markdown[4]
    assert " 12.3 " in markdown[4]
    assert any(line.startswith("- Mean over replicates (n) ± half-width") for line in markdown)
    plain = board.render("simple")
    assert "#" not in plain
    assert "|" not in plain
    assert plain.endswith(".\n")


def test_a_terminal_shows_a_networks_name_once_and_without_its_settings():
    records = [make_record(toy_cell("lmc_mlp", shift)) for shift in ("none", "disjoint-halves")]
    for record in records:
        record.architecture.kwargs = {"width": 16, "depth": 9}
    plain = make_tables(records).render("simple")
    [title, _, head, _, network, *rows] = plain.splitlines()[:7]
    assert title.endswith("by fork) (n = 1)")
    assert head.split()[:2] == ["shift", "0"]
    assert network == "lmc_mlp, recipe fast:"
    assert [row.split()[0] for row in rows] == ["none", "disjoint-halves"]
    assert "lmc_mlp: depth=9,width=16." in plain
    assert plain.count("lmc_mlp") == 3  # a line above each table, and the note


def test_a_comparator_that_a_shift_has_not_gets_no_row_there():
    suite = toy_suite(forks=[0, "independent-equal-cost"], comparator_shifts=["none"])
    records = [make_record(toy_cell(shift=s.label, fork=f.name, suite=suite)) for s, f in suite.conditions]
    shown = make_tables(records).ensembles
    shifts = shown.groupby("fork")["shift"].agg(set).to_dict()
    assert shifts == {"0": {s.shift.label for s in suite.shifts}, "independent-equal-cost": {"none"}}


def test_ways_that_are_equal_but_for_rounding_share_their_pareto_mark():
    suite = toy_suite(forks=[0, "independent-equal-cost"])
    errors = {"0": (0.1, 0.2, 0.3), "independent-equal-cost": (0.3, 0.2, 0.1)}
    assert sum(1 - e for e in errors["0"]) != sum(1 - e for e in errors["independent-equal-cost"])
    cost = make_record().cost
    records = [
        make_record(toy_cell(fork=fork, replicate=r, suite=suite), ensemble_error=error).model_copy(
            update={"cost": cost}
        )
        for fork, row_ in errors.items()
        for r, error in enumerate(row_)
    ]
    assert list(make_tables(records).ensembles["Pareto"]) == ["yes", "yes"]


def test_pareto_marks_are_said_to_be_of_means():
    suite = toy_suite(forks=[0, "independent-equal-cost"])
    records = [make_record(toy_cell(fork=fork.name, suite=suite)) for fork in suite.fork_list]
    [note] = [note for note in make_tables(records).notes if "Pareto" in note]
    assert "by means over replicates" in note
    assert not any("Pareto" in note for note in make_tables([make_record()]).notes)


def test_the_area_and_its_companions_by_shift():
    ten = toy_suite(
        recipes={name: {"lr": 0.1, "batch_size": 32, "epochs": 10} for name in ("slow", "fast")},
        forks=[0, 3, 6, "independent"],
    )
    records = [
        make_record(
            toy_cell(architecture, shift, fork, r, ten),
            barrier_loss=-0.01 if architecture == "lmc_linear" else loss,
            barrier_error=loss / 4,
        )
        for architecture in ("lmc_linear", "lmc_mlp")
        for shift in ("none", "disjoint-halves")
        for fork, loss in (("0", 1.0), ("3", 0.5), ("6", 0.2), ("independent", 2.0))
        for r in range(2)
    ]
    board = make_tables(records)
    found = row(board.instability, architecture="lmc_mlp", shift="disjoint-halves")
    # the trapezoid of 0.5 and 0.25; 60 % is after its end
    assert {k: found[k] for k in ("0", "3", "area", "of errors", "scaled", "n")} == {
        **{"0": "50.0 ± 0.0", "3": "25.0 ± 0.0", "area": "37.5 ± 0.0", "of errors": "37.5 ± 0.0"},
        # at fitted temperatures D is x (1 + x) / 2: the trapezoid of 1/3 and 1/8
        "scaled": "22.9 ± 0.0",
        "n": "2",
    }
    assert "6" not in found
    assert row(board.instability, architecture="lmc_mlp", shift="mean of shifts")["area"] == "37.5 ± 0.0"
    convex = row(board.instability, architecture="lmc_linear", shift="disjoint-halves")
    assert {convex[k] for k in ("0", "3", "area")} == {"–"}
    assert board.notes[0].startswith("Instability: D over that of independent")
    # without independent networks there is no scale
    assert make_tables(r for r in records if r.fork.name != "independent").instability.empty


def test_ensembles_on_the_path_are_shown_where_they_were_measured():
    table = json.loads(make_record().to_json())
    table["pairs"][0]["path_ensemble"] = {
        "test": {
            "2": {"alphas": [0.0, 1.0], "ensemble_accuracy": 0.5},
            "5": {"alphas": [0.0, 0.25, 0.5, 0.75, 1.0], "ensemble_accuracy": 0.75},
        }
    }
    board = make_tables([parse_record(json.dumps(table), "x")])
    assert row(board.ensembles)["path"] == "75.0"
    assert any(note.startswith("Path: ") for note in board.notes)
    assert "path" not in make_tables([make_record()]).ensembles
