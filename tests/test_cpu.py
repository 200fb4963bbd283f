"""What replaces MLX's own functions on a CPU gives the same numbers and gradients."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from medtune.model import cpu

SCALE = 0.25
VISIBLE = mx.random.uniform(shape=(2, 1, 300, 300), key=mx.random.key(4)) > 0.5
MASKS: dict[str, Any] = {
    "none": None,
    "causal": "causal",
    "bool": VISIBLE | mx.eye(300).astype(mx.bool_),
    "additive": mx.random.normal((300, 300), key=mx.random.key(5)),
    "keys": mx.arange(300) < 200,
}


def tensors(queries: int = 300, keys: int = 300) -> list[mx.array]:
    """q with 6 heads that share 3 of k and v, wide enough for the largest exponents that occur."""
    shapes = ((2, 6, queries, 16), (2, 3, keys, 16), (2, 3, keys, 16))
    return [3 * mx.random.normal(shape, key=mx.random.key(n)) for n, shape in enumerate(shapes)]


def same(a: mx.array, b: mx.array) -> bool:
    """Equal within rounding, which goes with the largest number."""
    return mx.allclose(a, b, rtol=1e-5, atol=1e-5 * mx.abs(b).max().item()).item() is True


@pytest.mark.parametrize("mask", MASKS)
def test_attention_and_its_gradients_are_those_of_mlx(mask: str):
    def loss(attend: Any) -> Any:
        def of(*qkv: mx.array) -> mx.array:
            return attend(*qkv, scale=SCALE, mask=MASKS[mask]).square().sum()

        return mx.grad(of, argnums=(0, 1, 2))(*tensors())

    own, others = (f(*tensors(), scale=SCALE, mask=MASKS[mask]) for f in (cpu.attention, cpu.slow_attention))
    assert same(own, others)
    assert all(same(a, b) for a, b in zip(loss(cpu.attention), loss(cpu.slow_attention), strict=True))


def test_a_window_without_patches_has_no_attention():
    assert cpu.attention(*(mx.zeros((1, 2, 0, 16)) for _ in range(3)), scale=SCALE).shape == (1, 2, 0, 16)


@pytest.mark.parametrize("queries", [1, 7, cpu.ATTENTION_BLOCK, cpu.ATTENTION_BLOCK + 1])
def test_queries_that_come_after_cached_keys_see_all_of_them(queries: int):
    qkv = tensors(queries, 300)
    own, others = (f(*qkv, scale=SCALE, mask="causal") for f in (cpu.attention, cpu.slow_attention))
    assert same(own, others)


def test_silu_and_its_gradient_are_those_of_mlx():
    x = mx.concatenate([mx.linspace(-30, 30, 1001), mx.array([-100.0, 100.0])])
    assert same(cpu.silu(x), cpu.slow_silu(x))
    own, others = (mx.grad(lambda x, f=f: f(x).sum())(x) for f in (cpu.silu, cpu.slow_silu))
    assert same(own, others)


def test_half_precision_is_left_to_mlx():
    q, k, v = (x.astype(mx.bfloat16) for x in tensors())
    own, others = (f(q, k, v, scale=SCALE, mask="causal") for f in (cpu.attention, cpu.slow_attention))
    assert mx.array_equal(own, others).item()


def test_the_libraries_use_them_on_a_cpu():
    assert mx.fast.scaled_dot_product_attention is cpu.attention and nn.silu is cpu.silu
