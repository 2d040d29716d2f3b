from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coat_core.errors import CoatError
from coat_core.shards import index
from coat_core.shards.index import ShardIndex, index_bytes

NUMBERS = st.integers(0, 2**40)
ENTRIES = st.dictionaries(
    st.text("0123456789abcdef", min_size=64, max_size=64),
    st.fixed_dictionaries(
        {"shard": st.sampled_from(["shard-00.safetensors", "shard-00f.safetensors"]), "offset": NUMBERS, "frames": NUMBERS}
    ),
    max_size=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=ENTRIES, piece=st.integers(1, 400))
def test_an_index_is_read_as_the_json_that_it_is(tmp_path: Path, entries: dict[str, dict[str, object]], piece: int) -> None:
    path = tmp_path / "index.json"
    path.write_bytes(index_bytes(sorted(entries.items())))
    assert path.read_text() == json.dumps(entries, sort_keys=True) + "\n", "the bytes of earlier versions"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_PIECE_BYTES", piece)
        read = ShardIndex(path)
    assert dict(read) == entries
    assert list(read) == sorted(entries)
    assert len(read) == len(entries)
    for other in ("0" * 64, "", "f" * 65, "é", 3):
        assert (other in read) == (other in entries)


def test_a_damaged_index_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    whole = index_bytes([("ab" * 32, {"shard": "shard-ab.safetensors", "offset": 0, "frames": 1})])
    path = tmp_path / "index.json"
    for content in (b"", b"[]", whole[:-3], whole[:40], whole.replace(b"1", b'"x"'), whole.replace(b"shard", b"file"), b'{"a": 1}'):
        path.write_bytes(content)
        with pytest.raises(CoatError, match=r"cannot read the index of a store.*index\.json"):
            ShardIndex(path)
    with pytest.raises(CoatError, match="next step"):
        ShardIndex(tmp_path / "absent.json")
