from envs.tasks.state_tracking import cyclic
from studies import tracking
from tests.studies.conftest import Call, Refused


def test_a_table_of_layers_and_tasks(call: Call) -> None:
    words = ["--layers", "s5", "gru", "--tasks", "parity", "modular:modulus=4", "--length", "4"]
    rows = call("tracking", *words, "--updates", "1")["rows"]
    expected = [(layer, task) for layer in ("s5", "gru") for task in ("parity", "modular:modulus=4")]
    assert [(row["layer"], row["task"]) for row in rows] == expected
    for row in rows:
        assert len(row["returns"]) == 3 and all(-1 <= found <= 1 for found in row["returns"])
        assert 30_000 < row["parameters"] < 50_000


def test_parity_is_learned_where_inputs_choose_the_transition() -> None:
    found = tracking.measure("selective_lru", "parity", cyclic(2), length=8, updates=80, seed=0)
    assert found["returns"][0] > 0.98


def test_mistakes(refused: Refused) -> None:
    assert "whole number from 2 to 64" in refused("tracking", "--tasks", "modular:modulus=1")
    assert "invalid choice: 'lstm'" in refused("tracking", "--layers", "lstm")
    assert "--length N" in refused("tracking", "--tasks", "parity:length=48")
