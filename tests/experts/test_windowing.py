from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coat_core.experts.neural.windowing import Span, Windowing


@given(total=st.integers(1, 4000), context=st.integers(0, 40), step=st.integers(1, 120))
def test_windows_keep_every_frame_once_with_context_on_both_sides(total: int, context: int, step: int) -> None:
    windowing = Windowing(frames=step + 2 * context, context=context)
    spans = windowing.spans(total)
    assert [frame for span in spans for frame in range(span.keep_from, span.keep_to)] == list(range(total))
    for span in spans:
        assert 0 <= span.start <= span.keep_from < span.keep_to <= span.stop <= total
        assert span.stop - span.start <= windowing.frames
        assert span.start == 0 or span.keep_from - span.start == context
        assert span.stop == total or span.stop - span.keep_to == context


def test_a_clip_that_fits_is_one_window_and_one_frame_more_is_two() -> None:
    windowing = Windowing(frames=10, context=3)
    assert windowing.spans(10) == [Span(0, 10, 0, 10)]
    assert windowing.spans(11) == [Span(0, 10, 0, 7), Span(4, 11, 7, 11)]


def test_the_seams_depend_on_the_length_only() -> None:
    windowing = Windowing(frames=100, context=20)
    seams = [span.keep_to for span in windowing.spans(1000)]
    assert seams == [80, 140, 200, 260, 320, 380, 440, 500, 560, 620, 680, 740, 800, 860, 920, 1000]
