"""The schedule: pure functions of (seed, epoch, image id), each view once in V epochs, orders that restrict."""

import numpy as np
import pytest

from trainables.data.config import DataConfig
from trainables.data.counter_random import Stream, random_bits, splitmix64
from trainables.data.views import Schedule, crop_of

CIFAR = DataConfig(name="cifar100", schedule_seed=3)


def slow_splitmix64(state: int) -> int:
    mask = 2**64 - 1
    bits = (state + 0x9E3779B97F4A7C15) & mask
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & mask
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & mask
    return bits ^ (bits >> 31)


def slow_bits(*counters: int) -> int:
    bits = 0
    for counter in counters:
        bits = slow_splitmix64(bits ^ slow_splitmix64(counter))
    return bits


def test_splitmix64_gives_the_published_sequence() -> None:
    golden = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + step * golden) % 2**64 for step in range(3)], np.uint64)
    assert splitmix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_random_bits_equal_a_slow_version_and_broadcast() -> None:
    epochs, ids = np.array([[1], [2]]), np.array([0, 5, 70000])
    got = random_bits(2**70 + 9, Stream.ORDER, epochs, ids)
    want = [[slow_bits((2**70 + 9) % 2**64, 2, epoch, image) for image in (0, 5, 70000)] for epoch in (1, 2)]
    assert got.tolist() == want


def test_order_and_views_equal_a_slow_version() -> None:
    schedule, ids = Schedule(CIFAR), np.array([4, 2000, 17, 999, 1024])
    assert schedule.order(5, ids).tolist() == sorted(ids.tolist(), key=lambda image: slow_bits(3, 2, 5, image))
    for image in ids.tolist():
        bits = [slow_bits(3, 3, image, view) for view in range(162)]
        permutation = sorted(range(162), key=bits.__getitem__)
        for epoch in (1, 161, 162, 400):
            assert schedule.views_of(epoch, np.array([image])).tolist() == [permutation[epoch % 162]]


def test_a_schedule_never_changes() -> None:
    """Teacher tables on disk hold views and orders of earlier versions."""
    schedule, ids = Schedule(CIFAR), np.arange(12)
    assert schedule.order(1, ids).tolist() == [2, 5, 8, 7, 0, 4, 11, 3, 9, 1, 6, 10]
    assert schedule.views_of(1, ids).tolist() == [126, 73, 18, 73, 72, 119, 38, 68, 119, 45, 132, 67]


def test_order_of_some_images_is_the_order_of_all_with_the_others_left_out() -> None:
    schedule, everything = Schedule(CIFAR), np.arange(3000)
    some = np.random.RandomState(0).permutation(3000)[:700]
    for epoch in (1, 2, 200):
        order = schedule.order(epoch, everything)
        assert sorted(order) == everything.tolist()
        assert np.array_equal(schedule.order(epoch, some), order[np.isin(order, some)])
    assert not np.array_equal(schedule.order(1, everything), schedule.order(2, everything))


def test_views_depend_on_nothing_but_seed_epoch_and_id() -> None:
    used, everything = Schedule(CIFAR), np.arange(3000)
    for epoch in range(1, 8):
        views = used.views_of(epoch, everything)
    some = np.random.RandomState(1).permutation(3000)[:50]
    assert np.array_equal(Schedule(CIFAR).views_of(7, some), views[some])
    other = DataConfig(name="cifar100", schedule_seed=4, split_seed=9, held_out=0.3)
    assert not np.array_equal(Schedule(other).views_of(7, everything), views)
    same = DataConfig(name="cifar10", schedule_seed=3, split_seed=9, held_out=0.3)
    assert np.array_equal(Schedule(same).views_of(7, everything), views)


@pytest.mark.parametrize(("padding", "flip", "kind"), [(4, True, np.uint8), (8, True, np.uint16), (0, False, np.uint8)])
def test_each_image_shows_each_view_once_in_as_many_epochs(padding: int, flip: bool, kind: type) -> None:
    schedule, ids = Schedule(DataConfig(name="cifar10", padding=padding, flip=flip)), np.arange(40)
    shown = np.stack([schedule.views_of(epoch, ids) for epoch in range(3, 3 + schedule.views)])
    assert np.array_equal(np.sort(shown, axis=0), np.repeat(np.arange(schedule.views)[:, None], 40, axis=1))
    assert np.array_equal(schedule.views_of(3 + schedule.views, ids), shown[0])
    assert schedule._permutations_of(0).dtype == kind


def test_views_of_an_epoch_are_spread_evenly() -> None:
    counts = np.bincount(Schedule(CIFAR).views_of(1, np.arange(16200)), minlength=162)
    chi_square = ((counts - 100) ** 2 / 100).sum()
    assert 100 < chi_square < 230  # 161 expected, with a deviation of 18
    positions = Schedule(CIFAR).order(1, np.arange(16200))
    assert abs(np.corrcoef(positions, np.arange(16200))[0, 1]) < 0.03


def test_crops_are_numbered_without_gaps() -> None:
    crops = [crop_of(view, 2) for view in range(50)]
    assert crops == [(flip, top, left) for flip in (False, True) for top in range(5) for left in range(5)]
    assert crop_of(Schedule(CIFAR).unaugmented, 4) == (False, 4, 4)
