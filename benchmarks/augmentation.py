"""Augmented batches: a Pillow pipeline in a DataLoader against ``Batches``; and whether the pixels are the same."""

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional

from benchmarks.networks import DATA, random_images
from benchmarks.plain import PlainImages, augmenting, training_loader
from benchmarks.report import Row
from benchmarks.run import main
from benchmarks.timing import ROUNDS, interleaved
from trainables.data.batches import Batches
from trainables.data.image_file import Images
from trainables.data.views import crop_of

IMAGES = 4096
BATCH_SIZES = (64, 512)
LEAST_RATIO = 35.0


def rows(rounds: int = ROUNDS) -> list[Row]:
    images = random_images(IMAGES)
    return [*(_loader_row(images, size, rounds) for size in BATCH_SIZES), _difference_row(images)]


def _loader_row(images: Images, batch_size: int, rounds: int) -> Row:
    """An epoch of each. The plain side runs an eighth as many images and is told as if it ran all."""
    few = IMAGES // 8
    pictures = PlainImages(images.images[:few], images.labels[:few], augmenting(images.mean, images.std))
    loader, batches = training_loader(pictures, batch_size), Batches(images, DATA)
    epochs = iter(range(1, 10**6))

    def plain() -> None:
        for _ in loader:
            pass

    def here() -> None:
        for _ in batches.epoch(next(epochs), batch_size):
            pass

    timings = interleaved({"plain": plain, "here": here}, rounds)
    slow, fast = timings.median("plain") / few, timings.median("here") / IMAGES
    told = (f"{1e-3 / slow:.1f} k images/s", f"{1e-3 / fast:.1f} k images/s")
    case = f"B={batch_size}"
    return Row(what="augmented batches", case=case, plain=told[0], here=told[1], ratio=slow / fast, target=LEAST_RATIO)


def _difference_row(images: Images) -> Row:
    """The largest difference of a pixel over all views of some images."""
    ids, batches, worst = np.arange(4), Batches(images, DATA), 0.0
    seen = set()
    for epoch in range(1, DATA.views + 1):  # by then each image was shown in each of its views
        views = batches.schedule.views_of(epoch, ids).tolist()
        (batch,) = batches.in_views_of(epoch, ids)
        for image, view, index in zip(batch.images, views, ids.tolist(), strict=True):
            worst = max(worst, (image - _by_pillow(images, index, view)).abs().max().item())
            seen.add((index, view))
    assert len(seen) == len(ids) * DATA.views, "a view was left out"
    case = f"all {DATA.views} views of {len(ids)} images"
    return Row(what="difference of a pixel", case=case, plain="", here="", ratio=worst, target=0.0, at_most=True)


def _by_pillow(images: Images, index: int, view: int) -> torch.Tensor:
    """[3, H, W]: what torchvision makes of one image in one view."""
    flip, top, left = crop_of(view, DATA.padding)
    picture = Image.fromarray(np.ascontiguousarray(images.images[index].transpose(1, 2, 0)))
    picture = functional.crop(functional.pad(picture, [DATA.padding]), top, left, DATA.image_size, DATA.image_size)
    picture = functional.hflip(picture) if flip else picture
    return functional.normalize(functional.to_tensor(picture), list(images.mean), list(images.std))


if __name__ == "__main__":
    main(rows)
