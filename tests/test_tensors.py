"""Safetensors as bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from medtune import files
from medtune.errors import UserError
from medtune.model.tensors import INDEX, HeaderEntry, Shard, Weights, index_of, write_shard


def _write(path: Path, **arrays: mx.array) -> Path:
    mx.save_safetensors(str(path), arrays, {"format": "mlx"})
    return path


def test_a_shard_written_from_bytes_is_what_mlx_reads(tmp_path: Path) -> None:
    a = mx.random.normal((3, 8)).astype(mx.bfloat16)
    source = Shard.open(_write(tmp_path / "model.safetensors", a=a, b=mx.arange(5)))
    entries = [HeaderEntry(t.name, t.dtype, t.shape) for t in source.tensors]
    write_shard(tmp_path / "copy.safetensors", entries, (c for t in source.tensors for c in t.chunks()))
    copy = mx.load(str(tmp_path / "copy.safetensors"))
    assert mx.array_equal(copy["a"], a) and copy["a"].dtype == mx.bfloat16
    assert mx.array_equal(copy["b"], mx.arange(5))
    assert Shard.open(tmp_path / "copy.safetensors").is_mlx


def test_rows_are_read_without_the_rest(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    (tensor,) = Shard.open(_write(tmp_path / "model.safetensors", a=mx.array(array))).tensors
    assert tensor.rows == 6
    assert np.array_equal(np.frombuffer(tensor.read(2, 5), np.float32).reshape(3, 4), array.reshape(6, 4)[2:5])


def test_a_header_without_metadata_is_not_for_lm_studio(tmp_path: Path) -> None:
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {"a": mx.zeros(4)})
    assert not Shard.open(tmp_path / "model.safetensors").is_mlx


@pytest.mark.parametrize("cut", [4, 40, -1])
def test_a_file_cut_short_is_named(tmp_path: Path, cut: int) -> None:
    path = _write(tmp_path / "model.safetensors", a=mx.zeros((8, 8)))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        Shard.open(path)


def test_bytes_that_are_not_as_many_as_announced_are_a_bug(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="12 bytes for 16"):
        write_shard(tmp_path / "x.safetensors", [HeaderEntry("a", "F32", (4,))], [b"0" * 12])


def test_a_stale_index_is_only_a_hint(tmp_path: Path) -> None:
    _write(tmp_path / "model.safetensors", a=mx.zeros(4))
    files.write_json(tmp_path / INDEX, {"weight_map": {"a": "model-00001-of-00013.safetensors"}})
    assert set(Weights.open(tmp_path).tensors) == {"a"}


def test_one_name_in_two_files_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "model-1.safetensors", a=mx.zeros(4))
    _write(tmp_path / "model-2.safetensors", a=mx.ones(4))
    with pytest.raises(UserError, match="a stands in two files"):
        Weights.open(tmp_path)


def test_the_index_names_every_tensor_and_the_sum_of_their_bytes(tmp_path: Path) -> None:
    shards = [Shard.open(_write(tmp_path / f"model-{n}.safetensors", **{f"t{n}": mx.zeros(n)})) for n in (1, 2)]
    assert index_of(shards) == {
        "metadata": {"total_size": 12},
        "weight_map": {"t1": "model-1.safetensors", "t2": "model-2.safetensors"},
    }


@pytest.mark.parametrize("header", [b"[]", b'{"a": 5}', b'{"a": {"dtype": "F32", "shape": [1]}}', b'{"a": {}}'])
def test_a_header_that_is_none_is_one_line(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(UserError, match="not a safetensors file; copy or download it again"):
        Shard.open(path)
