"""Checkpoints: every stored type comes back exactly; what is wrong is one line with its name."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from measurement.errors import InputError
from models import checkpoints

VALUES = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5,
    "b.bias": np.array([1.0, 0.099975586], np.float32),
}
SHAPES = {name: value.shape for name, value in VALUES.items()}


def bfloat16_file(path, values):
    """safetensors' NumPy half cannot write bfloat16: header and bytes by hand."""
    header, body = {}, b""
    for name, value in values.items():
        raw = (value.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {
            "dtype": "BF16",
            "shape": list(value.shape),
            "data_offsets": [len(body), len(body) + len(raw)],
        }
        body += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_every_type_comes_back_as_float32(tmp_path, dtype):
    stored = {name: value.astype(dtype) for name, value in VALUES.items()}
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for path in (tmp_path, tmp_path / "model.safetensors"):
        read = checkpoints.read(path)
        assert read.keys() == VALUES.keys()
        for name, value in read.items():
            assert value.dtype == np.float32
            np.testing.assert_array_equal(value, stored[name].astype(np.float32))


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    bfloat16_file(tmp_path / "model.safetensors", VALUES)
    read = checkpoints.read(tmp_path)
    np.testing.assert_array_equal(read["a.weight"], VALUES["a.weight"])  # exact in 8 bits
    assert read["b.bias"].tolist() == [1.0, 0.099609375]  # 0.0999... cut to 8 bits


def test_shards_are_read_together(tmp_path):
    names = {"a.weight": "model-00001-of-00002.safetensors"}
    names["b.bias"] = "model-00002-of-00002.safetensors"
    for tensor, file in names.items():
        save_file({tensor: VALUES[tensor]}, tmp_path / file)
    (tmp_path / checkpoints.INDEX).write_text(json.dumps({"weight_map": names}))
    read = checkpoints.read(tmp_path)
    checkpoints.fit(read, SHAPES, "folder")
    assert [path.name for path in checkpoints.files(tmp_path)] == list(names.values())
    both = checkpoints.digest(checkpoints.files(tmp_path))
    assert both != checkpoints.digest(checkpoints.files(tmp_path)[:1])
    (tmp_path / names["b.bias"]).unlink()
    with pytest.raises(InputError, match=names["b.bias"]) as error:
        checkpoints.read(tmp_path)
    one_line(error)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": {"a": "../x.safetensors"}}'])
def test_a_bad_index_is_one_line(tmp_path, index):
    (tmp_path / checkpoints.INDEX).write_text(index)
    with pytest.raises(InputError, match=str(tmp_path)) as error:
        checkpoints.read(tmp_path)
    one_line(error)


def test_the_digest_of_one_file_is_its_own(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert checkpoints.digest([path]) == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize(
    "content",
    [b"", b"hello\n", b"version https://git-lfs.github.com/spec/v1\noid x\n", b"\xff" * 99],
)
def test_a_file_of_another_kind_is_one_line(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="is not a safetensors file") as error:
        checkpoints.read(tmp_path)
    assert repr(content[:16]) in one_line(error)


def test_a_shortened_file_is_one_line(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(VALUES, path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match="is not a safetensors file") as error:
        checkpoints.read(path)
    one_line(error)


def test_quantised_weights_are_refused(tmp_path):
    save_file({"a.weight": np.zeros((2, 3), np.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"tensor a\.weight is of type I8") as error:
        checkpoints.read(tmp_path)
    one_line(error)


def test_a_folder_without_weights_or_with_several_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no safetensors file") as error:
        checkpoints.read(tmp_path)
    one_line(error)
    for name in ("x.safetensors", "y.safetensors"):
        save_file(VALUES, tmp_path / name)
    with pytest.raises(InputError, match=r"x\.safetensors, y\.safetensors"):
        checkpoints.read(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        checkpoints.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda v: v.pop("a.weight"),
            r"tensor a\.weight is missing; expected it with shape \(2, 3\)",
        ),
        (
            lambda v: v.update({"b.bias": np.zeros(3)}),
            r"tensor b\.bias has shape \(3,\); expected \(2,\)",
        ),
        (lambda v: v.update({"c": np.zeros(1)}), r"tensor c, shape \(1,\), has no place"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(change, said):
    values = dict(VALUES)
    checkpoints.fit(values, SHAPES, "folder")
    change(values)
    with pytest.raises(InputError, match=said) as error:
        checkpoints.fit(values, SHAPES, "folder")
    assert one_line(error).startswith("folder: ")
