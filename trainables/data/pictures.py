"""Decoding image files and resizing images, in threads (Pillow works outside Python's lock)."""

import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

_AT_ONCE = 256  # images a thread takes at a time
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)  # what Pillow raises


def resized(images: np.ndarray, image_size: int) -> np.ndarray:
    """``images`` [N, 3, h, h] uint8 at [N, 3, H, H], bilinear and antialiased as torchvision's Resize of PIL images."""
    if images.shape[-1] == image_size:
        return np.ascontiguousarray(images)

    def one(position: int) -> np.ndarray:
        picture = Image.fromarray(np.ascontiguousarray(images[position].transpose(1, 2, 0)))
        return _pixels(picture.resize((image_size, image_size), Image.Resampling.BILINEAR))

    return _filled(len(images), image_size, one)


def decoded_files(files: Sequence[Path], image_size: int) -> np.ndarray:
    """The images in ``files`` as [N, 3, H, H] uint8. ``ValueError`` names a file that cannot be decoded.

    Of an image that is not square the largest centred square is taken, since squeezing would distort each by another
    ratio. It is resized bilinear and antialiased, as torchvision's Resize of a PIL image.
    """

    def one(position: int) -> np.ndarray:
        try:
            with Image.open(files[position]) as picture:
                upright = ImageOps.exif_transpose(picture)
                square = (image_size, image_size)
                return _pixels(ImageOps.fit(_colour(upright), square, Image.Resampling.BILINEAR))
        except _BROKEN as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{files[position]} cannot be decoded as an image: {reason}") from error

    return _filled(len(files), image_size, one)


def _filled(count: int, image_size: int, one: Callable[[int], np.ndarray]) -> np.ndarray:
    images = np.empty((count, 3, image_size, image_size), np.uint8)

    def fill(start: int) -> None:
        for position in range(start, min(start + _AT_ONCE, count)):
            images[position] = one(position)

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(0, count, _AT_ONCE)))  # list: raises what a thread raised
    return images


def _colour(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16-bit grey: a plain conversion clips it to white
        scaled = (np.asarray(picture).astype(np.int64) // 256).clip(0, 255).astype(np.uint8)
        picture = Image.fromarray(scaled)
    if picture.mode == "P":
        picture = picture.convert("RGBA")  # a palette may hold transparency
    return picture.convert("RGB")


def _pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).transpose(2, 0, 1)  # [3, H, W]
