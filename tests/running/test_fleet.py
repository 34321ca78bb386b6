"""Networks that advance together: in pieces of some seconds, whatever a step takes."""

from types import SimpleNamespace

import pytest
import torch

from lmcbench.running import train_family as fleet
from lmcbench.running.train_family import CHUNK_S, Fleet
from lmcbench.spec.recipe import Recipe

HOST = torch.device("cpu")
BENCH = SimpleNamespace(device=HOST, train=None)
RECIPE = Recipe(lr=0.1, batch_size=8, epochs=1)


def members(count):
    return [SimpleNamespace(stream=None, seconds=0.0, state=None) for _ in range(count)]


@pytest.fixture
def clocked(monkeypatch):
    """Fleets whose steps take as long as `seconds(members)` says, and the steps they did."""
    now, done = [0.0], []

    def having(seconds):
        def advance(self, members, feed, first, last):
            now[0] += seconds(members) * (last - first)
            done.append((first, last))

        monkeypatch.setattr(Fleet, "_advance", advance)
        monkeypatch.setattr(fleet, "Feed", lambda *_: None)
        monkeypatch.setattr(fleet.time, "perf_counter", lambda: now[0])
        return done

    return having


@pytest.mark.parametrize(
    ("step", "pieces"),
    [
        (CHUNK_S / 8, [1, 4, 4, 1]),  # two members: four steps of both
        (CHUNK_S * 3, [1] * 10),  # never less than a step
        (CHUNK_S / 1000, [1, 9]),
    ],
)
def test_pieces_are_as_long_as_they_take(clocked, step, pieces):
    """`step` seconds for each step of a member: told as often as that allows, and each step once."""
    done = clocked(lambda members: step * len(members))
    two = members(2)
    told = list(Fleet("stacked", RECIPE, BENCH).train(two, 5, 15))
    assert told == [2 * n for n in pieces]
    assert [last - first for first, last in done] == pieces
    assert [done[0][0], *(last for _, last in done)] == [first for first, _ in done] + [15]
    assert [m.seconds for m in two] == pytest.approx([10 * step] * 2)


def test_the_reference_engine_trains_one_after_the_other(clocked):
    done = clocked(lambda members: CHUNK_S / 4)
    two = members(2)
    assert list(Fleet("reference", RECIPE, BENCH).train(two, 5, 15)) == [1, 4, 4, 1, 4, 4, 2]
    assert done == [(5, 6), (6, 10), (10, 14), (14, 15), (5, 9), (9, 13), (13, 15)]
    assert [m.seconds for m in two] == pytest.approx([10 * CHUNK_S / 4] * 2)


@pytest.mark.parametrize(("engine", "most"), [("reference", 1), ("stacked", 3)])
def test_states_wait_in_the_hosts_memory(clocked, engine, most):
    """And all of them are there again when the fleet is done."""
    there, held = torch.device("meta"), []

    class State:
        def __init__(self, device=HOST):
            self.device = device

        def to(self, device):
            return State(device)

    some = [SimpleNamespace(stream=None, seconds=0.0, state=State()) for _ in range(3)]

    def seconds(members):
        assert all(member.state.device == there for member in members)
        held.append(sum(member.state.device == there for member in some))
        return CHUNK_S

    clocked(seconds)
    list(Fleet(engine, RECIPE, SimpleNamespace(device=there, train=None)).train(some, 0, 4))
    assert max(held) == most
    assert all(member.state.device == HOST for member in some)


@pytest.mark.parametrize("engine", ["stacked", "reference"])
@pytest.mark.parametrize("at_once", [True, False])
def test_pieces_stay_short_where_other_members_go_on(clocked, engine, at_once):
    """Whether a step of all takes as long as one member's (stacked) or as all of theirs."""
    took = []

    def seconds(members):
        took.append((1 if at_once else len(members)) * CHUNK_S / 50)
        return took[-1]

    done = clocked(seconds)
    together = Fleet(engine, RECIPE, BENCH)
    for count in (1, 20, 1):
        list(together.train(members(count), 0, 400))
    assert max((last - first) * t for (first, last), t in zip(done, took, strict=True)) <= CHUNK_S * 1.001
