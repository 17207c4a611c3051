"""Our reading of safetensors headers beside the format's own library: the same files are whole, and hold the same."""

from __future__ import annotations

import json
import random
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save

from studio.core.safetensors_header import Header, read_header

ENTRY = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
FOUR = b"\0" * 4
# (header, values after it); what the library says of each is asked, not written here.
HEADERS = {
    "one tensor": (b'{"x":%s}' % ENTRY, FOUR),
    "nothing": (b"{}", b""),
    "nothing, and a byte more": (b"{}", b"x"),
    "spaces around": (b"  {}\n ", b""),
    "zeros behind": (b"{}\0\0", b""),
    "no object": (b"[]", b""),
    "no JSON": (b'{"x":', b""),
    "no UTF-8": (b'{"\xff":%s}' % ENTRY, FOUR),
    "half a character": (b'{"\\ud800":%s}' % ENTRY, FOUR),
    "half a character in the metadata": (b'{"__metadata__":{"a":"\\udfff"},"x":%s}' % ENTRY, FOUR),
    "a whole character in two halves": (b'{"\\ud83d\\ude00":%s}' % ENTRY, FOUR),
    "metadata": (b'{"__metadata__":{"a":"b"},"x":%s}' % ENTRY, FOUR),
    "no metadata": (b'{"__metadata__":null,"x":%s}' % ENTRY, FOUR),
    "metadata that is no text": (b'{"__metadata__":{"a":1},"x":%s}' % ENTRY, FOUR),
    "metadata that is a list": (b'{"__metadata__":["a"],"x":%s}' % ENTRY, FOUR),
    "more fields": (b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}}', FOUR),
    "a field twice": (b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"dtype":"F32"}}', FOUR),
    "a field missing": (b'{"x":{"dtype":"F32","data_offsets":[0,4]}}', FOUR),
    "NaN": (b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":NaN}}', FOUR),
    "a size with a point": (b'{"x":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', FOUR),
    "a size that is true": (b'{"x":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', FOUR),
    "a size that is text": (b'{"x":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}}', FOUR),
    "a size below zero": (b'{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', FOUR),
    "a shape that is a number": (b'{"x":{"dtype":"F32","shape":1,"data_offsets":[0,4]}}', FOUR),
    "three offsets": (b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}', FOUR),
    "offsets the wrong way": (b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', FOUR),
    "a scalar": (b'{"x":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}', FOUR),
    "many dimensions": (b'{"x":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % b",".join([b"1"] * 99), FOUR),
    "an empty tensor": (b'{"x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"y":%s}' % ENTRY, FOUR),
    "an empty tensor inside": (b'{"x":{"dtype":"F32","shape":[0],"data_offsets":[2,2]},"y":%s}' % ENTRY, FOUR),
    "an overlap": (b'{"x":%s,"y":%s}' % (ENTRY, ENTRY), FOUR),
    "a hole": (b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', FOUR * 2),
    "bytes behind": (b'{"x":%s}' % ENTRY, FOUR * 2),
    "bytes missing": (b'{"x":%s}' % ENTRY, b"\0" * 3),
    "an overflow": (b'{"x":{"dtype":"F32","shape":[9223372036854775808,4],"data_offsets":[0,0]}}', b""),
    "beyond 64 bits": (b'{"x":{"dtype":"F32","shape":[0,36893488147419103232],"data_offsets":[0,0]}}', b""),
    "an unknown dtype": (b'{"x":{"dtype":"I4","shape":[8],"data_offsets":[0,4]}}', FOUR),
    "a dtype that is a number": (b'{"x":{"dtype":32,"shape":[1],"data_offsets":[0,4]}}', FOUR),
    "half bytes": (b'{"x":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}', b"\0"),
}
STRICTER = {
    "a name twice": (b'{"x":%s,"x":%s}' % (ENTRY, ENTRY), FOUR),
    "a list": (b'{"x":["F32",[1],[0,4]]}', FOUR),
    "an empty tensor of no machine": (
        b'{"x":{"dtype":"F32","shape":[0,1152921504606846976],"data_offsets":[0,0]}}',
        b"",
    ),
    "nested": (b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":%s}}' % (b"[" * 9999 + b"]" * 9999), FOUR),
}
EIGHT_BITS = ("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E5M2FNUZ", "F8_E4M3FNUZ")
OTHERS = ("F4", "F6_E2M3", "F6_E3M2", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64")


def whole(header: bytes, values: bytes) -> bytes:
    """A file of this header."""
    return len(header).to_bytes(8, "little") + header + values


def ours(content: bytes) -> Header | None:
    """What we read; None where it is refused."""
    try:
        return read_header(BytesIO(content), len(content))
    except ValueError:
        return None


def theirs(content: bytes, path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]] | None:
    """Shapes and metadata by the library; None where it refuses."""
    path.write_bytes(content)
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except safetensors.SafetensorError:
        return None


def require_same(content: bytes, path: Path) -> bool:
    """Whether the file is whole, after asking both."""
    own, their = ours(content), theirs(content, path)
    if own is None or their is None:
        assert own is None
        assert their is None
        return False
    assert ({key: entry.shape for key, entry in own.entries.items()}, own.metadata) == their
    return True


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_is_whole_where_the_library_says_so(tmp_path: Path, name: str) -> None:
    require_same(whole(*HEADERS[name]), tmp_path / "x")


@pytest.mark.parametrize("name", STRICTER)
def test_some_headers_are_refused_that_the_library_may_take(name: str) -> None:
    assert ours(whole(*STRICTER[name])) is None


@pytest.mark.parametrize("dtype", EIGHT_BITS + OTHERS)
def test_every_dtype_has_the_librarys_width(tmp_path: Path, dtype: str) -> None:
    taken = []
    for size in range(1, 65):
        header = json.dumps({"x": {"dtype": dtype, "shape": [8], "data_offsets": [0, size]}}).encode()
        taken += [size] if require_same(whole(header, b"\0" * size), tmp_path / "x") else []
    assert len(taken) == 1


@pytest.mark.parametrize("length", [0, 7, 8, 9, 2**32, 2**63, 2**64 - 1, 100_000_001])
def test_lengths_that_cannot_be(tmp_path: Path, length: int) -> None:
    content = length.to_bytes(8, "little") + b"{}"
    assert not require_same(content, tmp_path / "x")


def test_two_thousand_damaged_files_are_judged_alike(tmp_path: Path) -> None:
    """Bytes of the header changed, dropped or doubled; both must come to one verdict."""
    names = [f"layers.{i}.lora_{half}.weight" for i in range(3) for half in "AB"]
    file = save({name: np.ones((2, 3), np.float32) for name in names}, {"format": "pt"})
    length = int.from_bytes(file[:8], "little")
    header, values, rng, taken = file[8 : 8 + length], file[8 + length :], random.Random(0), 0
    for _ in range(2000):
        at, count = rng.randrange(length), rng.choice((0, 1, 1, 1, 3))
        new = rng.choice((b"", bytes([rng.choice(b'0123456789[]{}",:xF')]), header[at : at + 7]))
        damaged = header[:at] + new + header[at + count :]
        taken += require_same(whole(damaged, values), tmp_path / "x")
    assert 20 < taken < 1980  # neither verdict by default
