"""The split: stratified, fixed by the seed, and never empty where it need not be."""

import numpy as np
import pytest

from trainables.data.splits import split


def test_it_parts_the_ids_and_depends_on_the_seed_alone() -> None:
    labels = np.random.RandomState(0).randint(0, 7, 500)
    kept, held_out = split(labels, 0.1, seed=1)
    assert sorted([*kept, *held_out]) == list(range(500))
    assert np.all(np.diff(kept) > 0)
    assert np.all(np.diff(held_out) > 0)
    assert np.array_equal(split(labels, 0.1, seed=1)[1], held_out)
    assert not np.array_equal(split(labels, 0.1, seed=2)[1], held_out)


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.25, 0.5, 0.9])
def test_every_class_gives_its_share(fraction: float) -> None:
    labels = np.repeat([0, 1, 2, 3], [200, 50, 333, 97])
    _, held_out = split(labels, fraction, seed=0)
    counts = np.bincount(labels[held_out], minlength=4)
    assert np.all(np.abs(counts - fraction * np.array([200, 50, 333, 97])) <= 1)
    assert counts.sum() == round(fraction * 680)


def test_cifar_shares_are_exact() -> None:
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(100), 500))
    _, held_out = split(labels, 0.1, seed=0)
    assert np.array_equal(np.bincount(labels[held_out]), np.full(100, 50))


@pytest.mark.parametrize("fraction", [0.01, 0.9])
def test_small_classes_keep_and_hold_out_at_least_one(fraction: float) -> None:
    labels = np.repeat([0, 1, 2, 5], [1, 2, 3, 40])
    kept, held_out = split(labels, fraction, seed=0)
    assert set(labels[kept]) == {0, 1, 2, 5}
    assert set(labels[held_out]) == {1, 2, 5}


def test_nothing_is_held_out_at_zero() -> None:
    kept, held_out = split(np.array([0, 1, 0, 1]), 0.0, seed=0)
    assert kept.tolist() == [0, 1, 2, 3]
    assert held_out.tolist() == []
    assert held_out.dtype == np.int64


def test_which_images_are_held_out_does_not_follow_their_place() -> None:
    _, held_out = split(np.zeros(20000, np.int64), 0.1, seed=0)
    assert abs(held_out.mean() - 10000) < 400  # the deviation of the mean is 129
