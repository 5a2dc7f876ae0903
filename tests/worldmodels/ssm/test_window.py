"""Chunks of a window: which row holds which step."""

import torch

from worldmodels.ssm.window import Chunks, chunk_length


def test_every_step_is_in_the_row_of_its_segment_and_comes_back() -> None:
    """Two rows of 10 steps in chunks of 4; resets in a chunk, at its beginning, two in a row, at the end."""
    is_first = torch.zeros(2, 10, dtype=torch.bool)
    is_first[0, [2, 3, 4, 9]] = True
    x = torch.arange(1.0, 21).reshape(2, 10)
    chunks = Chunks(is_first, 4)
    rows = chunks.rows(x)
    expected = [
        [0, 0, 0, 4],  # the last segments of row 0 ...
        [5, 6, 7, 8],
        [0, 10, 0, 0],
        [11, 12, 13, 14],  # ... and of row 1
        [15, 16, 17, 18],
        [19, 20, 0, 0],
        [1, 2, 0, 0],  # the earlier ones of row 0
        [0, 0, 3, 0],
        [9, 0, 0, 0],
    ]
    assert rows.tolist() == expected
    assert torch.equal(chunks.join(rows), x)
    assert chunks.fresh.tolist() == [[True, True, True], [False, False, False]]
    state, ends = torch.tensor([1.0, 4.0]), torch.tensor([[2.0, 3.0, 7.0], [5.0, 6.0, 8.0]])
    assert chunks.entering(state, ends).tolist() == [0, 0, 0, 4, 5, 6, 1, 0, 3]
    assert chunks.tail == 2 and chunks.last(rows).tolist() == [expected[2], expected[5]]


def test_chunk_lengths() -> None:
    steps = [1, 2, 3, 32, 33, 256, 257, 4096]
    assert [chunk_length(count) for count in steps] == [1, 2, 4, 32, 32, 32, 64, 64]
