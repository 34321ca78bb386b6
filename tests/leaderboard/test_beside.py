"""`lmcbench leaderboard --beside`: the entries of another leaderboard beside one's own."""

import shutil

from builders import make_record, toy_cell, write_submission


def test_entries_of_another_leaderboard_stand_beside_ones_own(tmp_path, lmcbench):
    mine, theirs = tmp_path / "leaderboard", tmp_path / "clone" / "leaderboard"
    write_submission(mine, "my-net", [make_record(toy_cell(replicate=0))])
    write_submission(theirs, "their-net", [make_record(toy_cell("lmc_linear", replicate=0))])
    # submitted there as well
    shutil.copytree(mine / "submissions" / "my-net", theirs / "submissions" / "my-net")
    code, _, err = lmcbench("leaderboard", "--beside", theirs)
    assert code == 0, err
    page = (mine / "README.md").read_text(encoding="utf-8")
    assert page.count("[my-net](submissions/my-net)") > 0
    assert "[their-net](../clone/leaderboard/submissions/their-net)" in page
    assert sorted(path.name for path in theirs.iterdir()) == ["submissions"]
    assert sorted(path.name for path in (mine / "results").iterdir()) == ["my-net"]
    assert lmcbench("leaderboard", "--check", "--beside", theirs)[0] == 0
    code, _, err = lmcbench("leaderboard", "--check")
    assert code == 1
    assert "README.md is out of date" in err
    code, _, err = lmcbench("leaderboard", "--beside", tmp_path / "nothing")
    assert code == 2
    assert "is no leaderboard" in err
