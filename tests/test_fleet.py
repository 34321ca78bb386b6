"""Networks that advance together: in pieces of some seconds, whatever a step takes."""

from types import SimpleNamespace

import pytest

from lmcbench.running import fleet
from lmcbench.running.fleet import PIECE, Fleet
from lmcbench.spec.recipe import Recipe


@pytest.mark.parametrize(
    ("step", "pieces"),
    [
        (PIECE / 8, [1, 4, 4, 1]),  # two members: four steps of both
        (PIECE * 3, [1] * 10),  # never less than a step
        (PIECE / 1000, [1, 9]),
    ],
)
def test_pieces_are_as_long_as_they_take(monkeypatch, step, pieces):
    """`step` seconds for each step of a member: told as often as that allows, and each step once."""
    now, done = [0.0], []

    def advance(self, members, feed, first, last):
        now[0] += step * len(members) * (last - first)
        done.append((first, last))

    monkeypatch.setattr(Fleet, "_advance", advance)
    monkeypatch.setattr(fleet, "Feed", lambda *_: None)
    monkeypatch.setattr(fleet.time, "perf_counter", lambda: now[0])
    members = [SimpleNamespace(stream=None, seconds=0.0) for _ in range(2)]
    bench = SimpleNamespace(device=None, train=None)
    told = list(Fleet("reference", Recipe(lr=0.1, batch_size=8, epochs=1), bench).train(members, 5, 15))
    assert told == [2 * n for n in pieces]
    assert [last - first for first, last in done] == pieces
    assert [done[0][0], *(last for _, last in done)] == [first for first, _ in done] + [15]
    assert [m.seconds for m in members] == pytest.approx([10 * step] * 2)


@pytest.mark.parametrize("stacked", [True, False])
def test_pieces_stay_short_where_other_members_go_on(monkeypatch, stacked):
    """Whether a step of all takes as long as one member's (stacked) or as all of theirs."""
    now, took = [0.0], []

    def advance(self, members, feed, first, last):
        took.append((last - first) * (1 if stacked else len(members)) * PIECE / 50)
        now[0] += took[-1]

    monkeypatch.setattr(Fleet, "_advance", advance)
    monkeypatch.setattr(fleet, "Feed", lambda *_: None)
    monkeypatch.setattr(fleet.time, "perf_counter", lambda: now[0])
    bench = SimpleNamespace(device=None, train=None)
    together = Fleet("reference", Recipe(lr=0.1, batch_size=8, epochs=1), bench)
    for count in (1, 20, 1):
        list(together.train([SimpleNamespace(stream=None, seconds=0.0) for _ in range(count)], 0, 400))
    assert max(took) <= PIECE * 1.001
