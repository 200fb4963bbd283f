"""Whether a BLAS multiplies rightly on this processor. Run as a script, so that a crash is its own:

    python blas_trial.py LIBRARY

It exits with 0 where the products agree with sums made without any BLAS, with ABSENT where there is no such library or
it exports no plain ``cblas_sgemm``, and with anything else where it must not be used. Standard library only: it is run
before every tool that computes, and takes 0.05 s.
"""

from __future__ import annotations

import ctypes
import random
import sys
from array import array
from operator import mul
from typing import Any

ABSENT = 3
SIZES = ((1, 71, 73), (7, 5, 11), (67, 71, 73))  # M, N, K: a vector, less than a tile, edges of tiles; threads share it
TOLERANCE = 1e-5  # of the largest number of the product
ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112  # of CBLAS


def main(library: str) -> int:
    """The exit code."""
    try:
        gemm = ctypes.CDLL(library, mode=ctypes.RTLD_LOCAL).cblas_sgemm
    except (OSError, AttributeError):
        return ABSENT
    return 0 if all(multiplies(gemm, *size) for size in SIZES) else 1


def multiplies(gemm: Any, m: int, n: int, k: int) -> bool:
    """Whether ``gemm`` makes the right (M, N) of (M, K) and (K, N), each as it is and transposed, as MLX calls it."""
    rng = random.Random(m)
    a, b = (array("f", (rng.uniform(-1, 1) for _ in range(size))) for size in (m * k, k * n))
    rows, columns = [a[i * k : i * k + k] for i in range(m)], [b[j::n] for j in range(n)]
    wanted = [sum(map(mul, row, column)) for row in rows for column in columns]
    lefts = ((PLAIN, a, k), (TRANSPOSED, _joined(a[i::k] for i in range(k)), m))
    rights = ((PLAIN, b, n), (TRANSPOSED, _joined(columns), k))
    limit = TOLERANCE * max(map(abs, wanted))
    return all(
        abs(found - right) <= limit
        for left in lefts
        for other in rights
        for found, right in zip(_product(gemm, left, other, (m, n, k)), wanted, strict=True)
    )


def _joined(parts: Any) -> array[float]:
    return sum(parts, array("f"))


def _product(gemm: Any, left: Any, right: Any, size: tuple[int, int, int]) -> array[float]:
    (how_a, a, lead_a), (how_b, b, lead_b), (m, n, k) = left, right, size
    out = array("f", bytes(4 * m * n))
    floats = [ctypes.c_void_p(numbers.buffer_info()[0]) for numbers in (a, b, out)]
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    gemm(ROW_MAJOR, how_a, how_b, m, n, k, one, floats[0], lead_a, floats[1], lead_b, zero, floats[2], n)
    return out


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
