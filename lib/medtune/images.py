"""Images as training sees them: decoded in full, upright, RGB, small enough, and told apart by their pixels."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_RATIO = 200  # of the edges; Qwen's smart_resize refuses more
MOST_BYTES = 2**30  # of a file
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # X-rays: 16-bit and float grey
BROKEN = (
    OSError,
    SyntaxError,  # what Pillow raises for a broken PNG
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class ImageError(Exception):
    """Bytes that are no image one can show; the message says why."""


def bytes_of(path: Path) -> bytes:
    """The bytes of an image file; an OSError where there is none, a pipe or a device perhaps, or it is too large."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if path.stat().st_size > MOST_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return path.read_bytes()


def upright_rgb(data: bytes, max_edge: int) -> Image.Image:
    """Decode fully, rotate by EXIF, flatten onto white, convert to RGB, scale the long edge down to ``max_edge``.

    Deep grey images (16 bit, float) are stretched from their darkest to their brightest value; Pillow alone would
    clip them to white. Raises ``ImageError``.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            ImageOps.exif_transpose(opened, in_place=True)
            image = _rgb(opened)
    except UnidentifiedImageError:
        raise ImageError("of no format that is known") from None
    except BROKEN as error:
        raise ImageError(f"{type(error).__name__}: {error}") from None
    width, height = image.size
    if max(image.size) > max_edge:
        image.thumbnail((max_edge, max_edge), Image.Resampling.LANCZOS)
    if max(image.size) > MAX_RATIO * min(image.size):  # scaled: a narrow one may lose its last but one pixel
        kept = f"{width} x {height} pixels, {image.width} x {image.height} where it is kept"
        raise ImageError(f"{kept}: longer than {MAX_RATIO} times its width")
    image.info.clear()  # Pillow would write a colour profile, and what it says of the device, back to the file
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in DEEP_MODES:
        grey = np.asarray(image, np.float64)
        low, high = grey.min(), grey.max()
        image = Image.fromarray(((grey - low) / max(high - low, 1e-12) * 255).round().astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def pixel_hash(image: Image.Image) -> str:
    """Sha256 over size and RGB bytes: the same picture from another file format has the same."""
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def intact(path: Path) -> bool:
    """Whether a stored image is there and whole, by its checksums; nothing is decoded."""
    try:
        with Image.open(path) as image:
            image.verify()
    except BROKEN:
        return False
    return True
