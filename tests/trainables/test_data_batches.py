"""Batches: every view as torchvision's Pillow pipeline makes it, to the bit; orders, ranks, and errors."""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from PIL import Image

from trainables.data.batches import Batches, Normalisation
from trainables.data.config import DataConfig
from trainables.data.crops import GatherCrops, SliceCrops
from trainables.data.image_file import Images
from trainables.data.views import Schedule, crop_of

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def part_of(count: int, size: int = 32) -> Images:
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (count, 3, size, size), dtype=np.uint8)
    images.flags.writeable = False  # as those of a mapped file
    return Images(images, random.randint(0, 10, count), tuple("abcdefghij"), MEAN, STD, "")


def config_of(**fields: object) -> DataConfig:
    return DataConfig(**{"name": "cifar100", **fields})  # type: ignore[arg-type]


def torchvision_view(image: np.ndarray, view: int, padding: int) -> torch.Tensor:
    flip, top, left = crop_of(view, padding)
    size = image.shape[-1]
    picture = tv.crop(tv.pad(Image.fromarray(image.transpose(1, 2, 0)), padding, fill=0), top, left, size, size)
    return tv.normalize(tv.to_tensor(tv.hflip(picture) if flip else picture), MEAN, STD)


@pytest.mark.parametrize("form", ["slices", "gather"])
@pytest.mark.parametrize(("size", "padding", "flip"), [(32, 4, True), (16, 2, False), (20, 10, True), (16, 0, True)])
def test_every_view_is_torchvisions_to_the_bit(form: str, size: int, padding: int, flip: bool) -> None:
    part = part_of(7, size)
    schedule = Schedule(config_of(image_size=size, padding=padding, flip=flip))
    crops: SliceCrops | GatherCrops = SliceCrops(part.images, schedule)
    if form == "gather":
        crops = GatherCrops(part.images, schedule, torch.device("cpu"))
    views = torch.arange(schedule.views)
    pixels = crops(torch.full_like(views, 5), views)
    got = Normalisation(part, torch.device("cpu"))(pixels)
    want = torch.stack([torchvision_view(part.images[5], view, padding) for view in range(schedule.views)])
    assert pixels.dtype == torch.uint8
    assert got.is_contiguous()
    assert (got - want).abs().max().item() == 0
    if (padding, flip) == (4, True):
        assert len(views) == 162


def test_both_forms_agree_on_mixed_batches() -> None:
    part, schedule = part_of(30), Schedule(config_of())
    slices, gather = SliceCrops(part.images, schedule), GatherCrops(part.images, schedule, torch.device("cpu"))
    ids, views = torch.randint(0, 30, (100,)), torch.randint(0, 162, (100,))
    assert torch.equal(slices(ids, views), gather(ids, views))


def test_an_epoch_is_the_schedules() -> None:
    part, config = part_of(50), config_of(schedule_seed=8)
    ids = np.arange(3, 50)
    served = list(Batches(part, config, ids).epoch(4, 10))
    assert len(served) == Batches(part, config, ids).steps(10) == 4
    indices = torch.cat([batch.indices for batch in served]).numpy()
    schedule = Schedule(config)
    assert np.array_equal(indices, schedule.order(4, ids)[:40])
    assert len(set(indices)) == 40
    for batch in served:
        assert batch.images.dtype == torch.float32
        assert torch.equal(batch.labels, torch.tensor(part.labels)[batch.indices])
        views = schedule.views_of(4, batch.indices.numpy())
        want = [torchvision_view(part.images[i], v, 4) for i, v in zip(batch.indices, views, strict=True)]
        assert torch.equal(batch.images, torch.stack(want))


@pytest.mark.parametrize("world", [2, 3, 6])
def test_ranks_hold_contiguous_slices_of_each_global_batch(world: int) -> None:
    part, config = part_of(50), config_of()
    whole = list(Batches(part, config).epoch(2, 12))
    of_ranks = [list(Batches(part, config).epoch(2, 12, rank, world)) for rank in range(world)]
    for step, batch in enumerate(whole):
        for field in ("images", "labels", "indices"):
            joined = torch.cat([getattr(of_rank[step], field) for of_rank in of_ranks])
            assert torch.equal(joined, getattr(batch, field))
    assert {len(of_rank) for of_rank in of_ranks} == {len(whole)} == {4}


def test_views_given_by_id_are_those_of_the_epoch() -> None:
    batches = Batches(part_of(20), config_of(), np.arange(5, 20))
    shown = {
        int(i): image for batch in batches.epoch(3, 5) for i, image in zip(batch.indices, batch.images, strict=True)
    }
    in_order = list(batches.in_views_of(3, np.arange(5, 20)))
    assert [len(batch.labels) for batch in in_order] == [15]
    for batch in in_order:
        for index, image in zip(batch.indices.tolist(), batch.images, strict=True):
            assert torch.equal(image, shown[index])


def test_unaugmented_images_are_as_they_are() -> None:
    part = part_of(100)
    batches = Batches(part, config_of())
    assert batches.forward_size == 64
    ids = np.arange(100)[::-1].copy()
    served = list(batches.unaugmented(ids))
    assert [batch.indices.tolist() for batch in served] == [list(range(99, 35, -1)), list(range(35, -1, -1))]
    for batch in served:
        want = [tv.normalize(tv.to_tensor(part.images[i].transpose(1, 2, 0).copy()), MEAN, STD) for i in batch.indices]
        assert torch.equal(batch.images, torch.stack(want))


def test_what_cannot_be_served_is_said_at_once() -> None:
    batches = Batches(part_of(20), config_of())
    with pytest.raises(ValueError, match=r"^batch_size must be a multiple of the number of workers, 3, got 10$"):
        batches.epoch(1, 10, rank=0, world=3)
    with pytest.raises(ValueError, match=r"^batch_size must be at most the 20 training images, got 64$"):
        batches.epoch(1, 64)
    with pytest.raises(AssertionError, match="rank 2 of 2"):
        batches.epoch(1, 10, rank=2, world=2)


def test_the_part_is_not_copied() -> None:
    part = part_of(20)
    assert np.shares_memory(Batches(part, config_of())._crops._images, part.images)  # type: ignore[union-attr]
