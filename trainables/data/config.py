"""DataConfig: which images, how they are split, and how a training image is varied."""

from dataclasses import dataclass

from trainables import checks
from trainables.data import dataset_of


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images of a trial.

    ``name`` is a key of ``DATASETS`` or ``folder:PATH``. ``image_size`` (pixels a side), ``padding`` (pixels on each
    side before the random crop) and ``flip`` (random horizontal flip) are the dataset's own where they are not given.
    ``held_out`` is the fraction of the training images, stratified by class, on which a search selects; ``split_seed``
    chooses them. ``schedule_seed`` decides the order and the views of the images in every epoch; a search shares it.
    """

    name: str = "digits"
    image_size: int = None  # type: ignore[assignment]  # the dataset's own
    padding: int = None  # type: ignore[assignment]  # an eighth of the image's side
    flip: bool = None  # type: ignore[assignment]  # the dataset's own
    held_out: float = 0.1
    split_seed: int = 0
    schedule_seed: int = 0

    def __post_init__(self) -> None:
        dataset = dataset_of(self.name)
        own = {"image_size": dataset.image_size, "flip": dataset.flip}
        for field, value in own.items():
            if getattr(self, field) is None:
                object.__setattr__(self, field, value)
        checks.at_least("data.image_size", self.image_size, 1)
        dataset.check_size(self.image_size)
        if self.padding is None:
            object.__setattr__(self, "padding", self.image_size // 8)
        checks.at_least("data.padding", self.padding, 0)
        checks.require(
            self.padding <= self.image_size // 2, "data.padding", "at most half of data.image_size", self.padding
        )
        checks.truth("data.flip", self.flip)
        checks.within("data.held_out", self.held_out, 0, 0.9)
        checks.at_least("data.split_seed", self.split_seed, 0)
        checks.at_least("data.schedule_seed", self.schedule_seed, 0)

    @property
    def views(self) -> int:
        """How many different views an image has: offsets 0 to twice the padding both ways, flipped or not."""
        return (2 * self.padding + 1) ** 2 * (2 if self.flip else 1)
