"""MLX multiplies with an OpenBLAS only where that multiplies rightly here; one that crashes takes nothing with it."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medtune.model import blas, blas_trial
from medtune.model.blas import OpenBlas

GEMM = """
#include <stdlib.h>
#include <unistd.h>
void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                 const float *b, int ldb, float beta, float *c, int ldc) {
  %s
  for (int i = 0; i < m; i++) for (int j = 0; j < n; j++) {
    double sum = 0;
    for (int l = 0; l < k; l++)
      sum += (double)a[ta == 111 ? i * lda + l : l * lda + i] * b[tb == 111 ? l * ldb + j : j * ldb + l];
    c[i * ldc + j] = sum;
  }
}
"""
WRONG = {
    "crashes": "abort();",
    "forgets what is transposed": "ta = 111;",
    "loses the edge of large products": "if (m > 64) m = 64;",
    "leaves out the last term": "k = k > 70 ? k - 1 : k;",
    "gives no numbers": "c[0] = 0.0f / 0.0f; return;",
}

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a Mac multiplies with Metal")


def compiled(path: Path, code: str) -> str:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc here")
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)], input=code, text=True, check=True)
    return str(path)


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(path, mode) of what is loaded, which stays out of the tests' own process, as in one without MLX so far."""
    calls: list[tuple[str, int]] = []
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    monkeypatch.setattr(blas.ctypes, "CDLL", lambda path, mode: calls.append((path, mode)))
    for name in (blas.TAKEN, blas.KERNELS):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever the test does
        monkeypatch.delenv(name)
    return calls


@pytest.fixture
def right(tmp_path: Path) -> OpenBlas:
    return OpenBlas(compiled(tmp_path / "some_one.libs" / "libopenblas-1.so", GEMM % ""), "some-one")


def test_a_library_that_multiplies_rightly_is_taken_named_and_told_to_other_processes(
    right: OpenBlas, loaded: list[tuple[str, int]]
) -> None:
    assert blas.load([right]) == "OpenBLAS (some-one's)"
    assert loaded == [(right.path, ctypes.RTLD_GLOBAL)] and os.environ[blas.TAKEN] == right.path


def test_mlx_multiplies_with_what_was_taken(tmp_path: Path) -> None:
    library = compiled(tmp_path / "speaks.so", GEMM % 'write(1, "used ", 5);')
    code = (
        "import sys; from medtune.model import blas; blas.load([blas.OpenBlas(sys.argv[1])]);"
        "import mlx.core as mx; x = mx.ones((9, 9)); print((x @ x).sum().item())"
    )
    done = subprocess.run([sys.executable, "-c", code, library], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("used ") and done.stdout.endswith("729.0\n")


@pytest.mark.parametrize("fault", WRONG)
def test_a_library_that_computes_wrongly_is_not_loaded_and_said_to_be_wrong(
    fault: str, tmp_path: Path, loaded: list[tuple[str, int]]
) -> None:
    wrong = OpenBlas(compiled(tmp_path / "wrong.so", GEMM % WRONG[fault]))
    assert "OpenBLAS (system) computes wrongly on this CPU" in blas.load([wrong])
    assert blas.TAKEN not in os.environ and not loaded


def test_a_library_that_hangs_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "PATIENCE", 0.2)
    hangs = OpenBlas(compiled(tmp_path / "hangs.so", GEMM % "for (;;) {}"))
    assert "computes wrongly" in blas.load([hangs])


def test_the_first_that_is_right_is_taken(right: OpenBlas, tmp_path: Path, loaded: list[tuple[str, int]]) -> None:
    absent = OpenBlas(str(tmp_path / "nothing.so"))
    suffixed = OpenBlas(compiled(tmp_path / "suffixed.so", GEMM.replace("cblas_sgemm", "scipy_cblas_sgemm") % ""))
    wrong = OpenBlas(compiled(tmp_path / "wrong.so", GEMM % WRONG["crashes"]))
    second = OpenBlas(compiled(tmp_path / "second.so", GEMM % ""))
    assert [library.trial() for library in (absent, suffixed, right)] == [blas_trial.ABSENT, blas_trial.ABSENT, 0]
    assert blas.load([absent, suffixed, wrong, right, second]) == "OpenBLAS (some-one's)"
    assert [path for path, _ in loaded] == [right.path]


def test_without_any_the_line_says_what_to_install(tmp_path: Path) -> None:
    assert "apt-get install libopenblas0-pthread" in blas.load([OpenBlas(str(tmp_path / "nothing.so"))])


def test_the_systems_comes_first_then_what_packages_brought(tmp_path: Path) -> None:
    for name in (
        "opencv_python.libs/libopenblasp-r0-1.so",
        "numpy.libs/libscipy_openblas64_.so",
        "b.libs/libopenblas.so.0",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = blas.candidates(tmp_path)
    assert [library.distribution for library in found] == ["", "b", "opencv-python"]
    assert found[0].path == "libopenblas.so.0", "as the loader finds it"


def test_the_locked_environment_brings_one_that_multiplies_rightly() -> None:
    brought = [library for library in blas.candidates() if library.distribution]
    if not brought:
        pytest.skip("no package here brought an OpenBLAS")
    assert [library.trial() for library in brought] == [0] * len(brought)


def test_where_mlx_is_imported_already_nothing_is_loaded(right: OpenBlas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlx.core", sys)
    assert blas.load([right]) == "BLAS: as loaded before" and blas.TAKEN not in os.environ


def test_an_amd_processor_newer_than_a_packages_build_gets_the_kernels_of_its_kind(
    right: OpenBlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blas, "_amd_with_avx2", lambda: True)
    assert right.settings == {blas.KERNELS: "Haswell"}
    assert OpenBlas("libopenblas.so.0").settings == {}, "the system's is as new as the system"
    monkeypatch.setenv(blas.KERNELS, "Zen")
    assert right.settings == {}, "what the person chose stays"
