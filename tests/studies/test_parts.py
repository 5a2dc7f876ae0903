"""Where the time of an update goes: every part is found, none is counted twice, the agent stays as it was."""

import itertools
import json

import pytest
import torch

from agent.agent import Agent
from studies import parts, tables
from studies.timing import Subject
from tests.studies.test_costs import debug


@pytest.mark.parametrize("task", [None, "Pendulum-v1", "rooms"])
def test_parts_of_an_update(task: str | None) -> None:
    """Also of continuous actions and of pictures."""
    result = parts.measure({name: debug(name, task) for name in ("s4wm", "rssm")}, [5], repeats=1)
    assert json.loads(json.dumps(result)) == result
    names = ["update", *parts.PARTS, parts.REST]
    rows = result["rows"]
    assert [(row["name"], row["part"]) for row in rows] == list(itertools.product(("s4wm", "rssm"), names))
    assert all(row["seconds"] > 0 for row in rows), "a part that no method keeps the time of"
    for backbone in ("s4wm", "rssm"):
        shares = [row["share"] for row in rows if row["name"] == backbone]
        assert shares[0] == 1 and sum(shares[1:]) == pytest.approx(1)
    assert all(row["ratio"] == 1 for row in rows if row["name"] == "s4wm")
    assert "dream, backbone" in tables.text(rows, parts.COLUMNS)
    assert "windows of 5 steps" in parts.note(result)


def test_a_part_inside_another_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimiser's step lies inside a backward pass; what the model calls is all the model's."""
    now = itertools.count()
    clock = parts.Clock("cpu")
    monkeypatch.setattr(clock, "_now", lambda: next(now))  # a second from one glance to the next
    adam = clock._timed("optimisers", lambda: None)
    clock._timed("model", lambda: clock._timed("critic", lambda: None)())()
    clock._timed("model, backward", adam)()
    assert dict(clock.spent) == {"rest": 1, "model": 1, "model, backward": 2, "optimisers": 1}


def test_the_agent_is_as_it_was() -> None:
    """Whatever an update says; and the times change nothing that it computes."""
    subject, other = (Subject("a", debug("s4wm")) for _ in range(2))
    batch = subject.batch(4, 6)
    before = owned(subject.agent)
    with parts.Clock("cpu").parts(subject.agent):
        subject.agent.update(batch)
    assert owned(subject.agent) == before
    other.agent.update(batch)
    for one, same in zip(subject.agent.model.parameters(), other.agent.model.parameters(), strict=True):
        assert torch.equal(one, same)
    with pytest.raises(KeyError), parts.Clock("cpu").parts(subject.agent):
        subject.agent.update({})
    assert owned(subject.agent) == before


def owned(agent: Agent) -> list[object]:
    """What stands in place of the methods that keep the time, if anything."""
    methods = [method for of_part in parts.PARTS.values() for method in of_part(agent)]
    return [vars(owner).get(name) for owner, name in methods]
