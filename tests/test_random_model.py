"""A random model of a family is a folder like the real one."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from medtune.demo import random_model


@pytest.mark.parametrize(("moe", "bits"), [(False, None), (True, None), (True, 4), (False, 8)])
def test_a_twin_loads_in_both_libraries_with_equal_logits_and_sees_its_image(
    moe: bool, bits: int | None, tmp_path: Path
) -> None:
    import mlx_lm
    import mlx_vlm

    folder = random_model.write_twin(tmp_path, moe=moe, bits=bits, layers=2)
    model, processor = mlx_vlm.load(str(folder))
    text_model, text_tokenizer = mlx_lm.load(str(folder))
    ids = mx.array([text_tokenizer.encode("血压150/95，正常吗？")])
    assert mx.allclose(model(ids).logits, text_model(ids), atol=1e-4)
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    text = "<|vision_start|><|image_pad|><|vision_end|>看"
    seen = [processor(images=[Image.fromarray(pixels)], text=[text]) for pixels in noise]
    first, second = (
        model(one["input_ids"], one["pixel_values"], image_grid_thw=one["image_grid_thw"]).logits for one in seen
    )
    assert mx.abs(first - second).max() > 0.1
