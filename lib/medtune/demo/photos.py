"""The few freely licensed real medical images that two scientific packages ship, for "what kind of image is this"."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from PIL import Image

from medtune.demo.config import MERGE, PATCH

EDGE = 192  # pixels of the longer side after shrinking


@dataclass(frozen=True)
class Photo:
    """A real image: where it lies, what kind it is, and what may be said of it without a doctor."""

    package: str
    file: str
    kind: str
    finding: str
    department: str
    license: str
    note: str

    @property
    def name(self) -> str:
        """The file's name without folders and ending."""
        return self.file.rpartition("/")[2].partition(".")[0].lower()

    @property
    def cluster(self) -> str:
        """Every question about this image."""
        return f"照片:{self.name}"


_SAMPLE = "NEMA-type sample shipped with pydicom (MIT), whose authors know of no restriction; names were replaced"
PHOTOS = (
    Photo("skimage", "data/retina.jpg", "眼底照片", "可见视盘、黄斑和血管", "眼科", "CC0-1.0", "scikit-image"),
    Photo("skimage", "data/microaneurysms.png", "眼底照片", "可见血管旁小点状影", "眼科", "CC0-1.0",
          "scikit-image, A. Maier"),
    Photo("skimage", "data/ihc.png", "病理切片", "可见腺体和棕色染色", "病理科", "no known copyright restrictions",
          "scikit-image, colon immunohistochemistry"),
    Photo("skimage", "data/cell.png", "显微镜照片", "可见单个细胞", "检验科", "CC0-1.0", "scikit-image"),
    Photo("pydicom", "data/test_files/CT_small.dcm", "CT断层", "可见一节椎体", "放射科", "MIT", _SAMPLE),
    Photo("pydicom", "data/test_files/MR_small.dcm", "磁共振图像", "可见局部软组织", "放射科", "MIT", _SAMPLE),
    Photo("pydicom", "data/test_files/examples_overlay.dcm", "磁共振图像", "可见肝脏和双肾", "放射科", "MIT", _SAMPLE),
)  # fmt: skip


def load(photo: Photo) -> Image.Image:
    """The image, shrunk to whole visual tokens and without anything but its pixels."""
    path = files(photo.package) / photo.file
    image = _dicom(str(path)) if photo.file.endswith(".dcm") else Image.open(str(path)).convert("RGB")
    cell = PATCH * MERGE
    scale = EDGE / max(image.size)
    width, height = (max(2, round(side * scale / cell)) * cell for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS).quantize(48).convert("RGB")


def _dicom(path: str) -> Image.Image:
    """Grey values between the 1st and the 99.5th percentile."""
    import pydicom  # pyright: ignore[reportMissingImports]

    grey = pydicom.dcmread(path).pixel_array.astype(float)
    low, high = np.percentile(grey, (1, 99.5))
    return Image.fromarray((np.clip((grey - low) / (high - low), 0, 1) * 255).astype(np.uint8)).convert("RGB")
