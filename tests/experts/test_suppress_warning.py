from __future__ import annotations

import threading
import warnings

import pytest

from coat_core.experts.neural.suppress_warning import suppress_warning

HANG_S = 1800.0


def test_a_warning_is_suppressed_while_any_thread_is_inside(recwarn: pytest.WarningsRecorder) -> None:
    suppression, inside, leave = suppress_warning("known and harmless"), threading.Barrier(2), threading.Event()

    def stay_inside() -> None:
        with suppression:
            inside.wait(HANG_S)
            leave.wait(HANG_S)

    def is_shown(message: str) -> bool:
        before = len(recwarn)
        warnings.warn(message, stacklevel=1)
        return len(recwarn) > before

    warnings.simplefilter("always")
    other = threading.Thread(target=stay_inside)
    other.start()
    inside.wait(HANG_S)
    try:
        with suppression:
            assert not is_shown("known and harmless")
        assert not is_shown("known and harmless"), "the other thread is still inside"
        assert is_shown("another")
    finally:
        leave.set()
        other.join()
    assert is_shown("known and harmless")
