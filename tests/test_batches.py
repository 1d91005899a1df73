import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bakeoff.compute.training.batches import collate, epoch_batches, evaluation_batches, parts
from bakeoff.data.tokens import Tokens

LENGTHS = st.lists(st.integers(2, 500), min_size=1, max_size=400)


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(1, 9), st.none() | st.integers(1, 1500))
def test_parts_hold_every_row_once_and_as_many_as_they_may(lengths, rows, tokens):
    slices = parts(lengths, rows, tokens)
    assert [i for s in slices for i in range(len(lengths))[s]] == list(range(len(lengths)))

    def fits(start, end):
        return end - start <= rows and (tokens is None or (end - start) * max(lengths[start:end]) <= tokens)

    for s in slices:
        assert fits(s.start, s.stop) or s.stop - s.start == 1
        assert s.stop == len(lengths) or not fits(s.start, s.stop + 1)


@settings(max_examples=30, deadline=None)
@given(LENGTHS, st.integers(1, 9), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_takes_each_example_once_and_depends_on_seed_and_epoch_only(lengths, size, seed, epoch):
    batches = epoch_batches(lengths, size, seed, epoch)
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    assert list(batches) == list(epoch_batches(lengths, size, seed, epoch))
    assert max(len(b) for b in batches) <= size
    assert len(batches) == -(-len(lengths) // size)
    assert sorted(i for b in evaluation_batches(lengths, size) for i in b) == list(range(len(lengths)))


def test_similar_lengths_come_together_and_epochs_differ():
    lengths = [(i * 37) % 401 for i in range(512)]
    batches = epoch_batches(lengths, 8, 0, 0)
    padded = sum(max(lengths[i] for i in b) * len(b) for b in batches)
    assert padded < 1.15 * sum(lengths)
    assert list(batches) != list(epoch_batches(lengths, 8, 0, 1))
    assert list(batches) != list(epoch_batches(lengths, 8, 1, 0))


def test_collate_points_at_the_logits_that_predict_each_target():
    batch = collate([Tokens([5, 6], [7, 0]), Tokens([8], [9, 10, 0])], pad=1)
    assert batch.ids.tolist() == [[5, 6, 7], [8, 9, 10]]
    assert batch.targets.tolist() == [7, 0, 9, 10, 0]
    assert [(r, c) for r, c in zip(batch.rows.tolist(), batch.columns.tolist(), strict=True)] == [
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 2),
    ]
    assert torch.equal(batch.ids[batch.rows, batch.columns], torch.tensor([6, 7, 8, 9, 10]))
    assert batch.counts == [2, 3]
    assert batch.lengths == [3, 3]
