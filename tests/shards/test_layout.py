from __future__ import annotations

import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coat_core.shards import layout
from coat_core.shards.layout import layout_of, prefix_of, shard_name

RATE_HZ, FRAME_BYTES = 25.0, 100
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64) | st.text("01", min_size=64, max_size=64)
"""The second kind has long common prefixes."""
CLIPS = st.dictionaries(HASHES, st.floats(0.0, 30.0), min_size=1, max_size=60)


def _bytes(seconds: float) -> int:
    return 80 + FRAME_BYTES * max(1, math.ceil(seconds * RATE_HZ))


@given(clips=CLIPS, limit=st.integers(1, 400_000), seed=st.randoms())
def test_every_clip_is_in_one_shard_and_only_a_single_clip_exceeds_the_limit(clips: dict[str, float], limit: int, seed: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "LIMIT_BYTES", limit)
        found = layout_of(clips, RATE_HZ, FRAME_BYTES)
        order = sorted(clips)
        seed.shuffle(order)  # type: ignore[attr-defined]
        assert layout_of({sha256: clips[sha256] for sha256 in order}, RATE_HZ, FRAME_BYTES) == found
    groups = found.group(clips)
    assert list(groups) == sorted(groups) == [shard_name(prefix) for prefix in found.prefixes]
    assert [sha256 for members in groups.values() for sha256 in members] == sorted(clips)
    for name, members in groups.items():
        prefix = prefix_of(name)
        assert prefix is not None
        assert all(sha256.startswith(prefix) and found.name(sha256) == name for sha256 in members)
        assert sum(not sha256.startswith(prefix) or sha256 in members for sha256 in clips) == len(clips), "no other clip has the prefix"
        size = sum(map(_bytes, members.values()))
        assert len(members) == 1 or size <= limit
        # No shard is divided without need: the clips that share one digit less exceed the limit.
        wider = [seconds for sha256, seconds in clips.items() if sha256.startswith(prefix[:-1])]
        assert len(prefix) == layout.PREFIX_LENGTH or (len(wider) > 1 and sum(map(_bytes, wider)) > limit)


def test_small_corpora_have_one_shard_for_each_pair_of_digits() -> None:
    clips = {hashlib.sha256(str(n).encode()).hexdigest(): 10.0 for n in range(5000)}
    assert layout_of(clips, 25.0, 2 * 1280).prefixes == tuple(f"{n:02x}" for n in range(256))


def test_at_a_million_clips_of_ten_seconds_no_shard_is_above_the_limit() -> None:
    # One in 16 of a million: those whose hash begins with 0.
    hashes = (hashlib.sha256(str(n).encode()).hexdigest() for n in range(1_000_000))
    clips = dict.fromkeys((sha256 for sha256 in hashes if sha256[0] == "0"), 10.0)
    groups = layout_of(clips, 25.0, 2 * 1280).group(clips)
    assert len(groups) == 256
    assert all(len(prefix_of(name) or "") == 3 for name in groups)
    assert max(len(members) for members in groups.values()) * 250 * 2560 < 256 << 20


def test_a_hash_of_no_shard_is_an_error() -> None:
    found = layout_of({"ab" * 32: 1.0, "cd" * 32: 1.0}, RATE_HZ, FRAME_BYTES)
    for other in ("00" * 32, "ac" * 32, "ff" * 32):
        with pytest.raises(KeyError):
            found.name(other)
