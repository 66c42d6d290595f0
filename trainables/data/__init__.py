"""The image datasets: what they are called, how their published files are read, how they are split and served.

Legend of shapes: N images of a part, B images of a batch, H = W = image size, V views of an image.
"""

from trainables.data.cifar import CIFAR10, CIFAR100
from trainables.data.dataset import Dataset
from trainables.data.digits import DIGITS
from trainables.data.folder import folder_dataset
from trainables.data.stl10 import STL10
from trainables.data.tiny_imagenet import TINY_IMAGENET

DATASETS: dict[str, Dataset] = {
    "digits": DIGITS,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "stl10": STL10,
    "tiny_imagenet": TINY_IMAGENET,
}


def dataset_of(name: str) -> Dataset:
    """The dataset called ``name``: a key of ``DATASETS``, or ``folder:PATH``. ``ValueError`` for another name."""
    if isinstance(name, str) and name.startswith("folder:") and name != "folder:":
        return folder_dataset(name.removeprefix("folder:"))
    if name not in DATASETS:
        raise ValueError(f"data.name must be one of {', '.join(DATASETS)} or folder:PATH, got {name!r}")
    return DATASETS[name]
