"""Structured logs on request: with `COAT_LOG=json`, every line on standard error is one JSON object, and nothing is printed otherwise.

Keys of each line: `time` (UTC, ISO 8601), `level`, `logger`, `event`, `message`, `run` (the run of the chain: Prefect's flow run), `stage`,
`mlflow_run`; unknown ones are null. An event can have further keys, and an error has `error`. Text that other code prints is an event
`output`, one for each line.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from coat_core.errors import CoatError

FORMAT = "COAT_LOG"
RUN = "COAT_RUN"
"""Variable with the run of the chain, for the stages that it starts."""
FORMATS = ("text", "json")
KEYS = ("time", "level", "logger", "event", "message", "run", "stage", "mlflow_run")
EXTRA = "coat"
"""Attribute of a log record with the keys of an event."""
_OUTPUT = "output"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class _State:
    """What this process logs: the file descriptor of its lines, and the keys of all of them."""

    def __init__(self) -> None:
        self.descriptor: int | None = None
        self.bound: dict[str, Any] = {}
        self.lock = threading.Lock()


_state = _State()


def wanted() -> bool:
    """Return whether the environment asks for structured logs.

    Raises:
        CoatError: `COAT_LOG` has another value.
    """
    value = os.environ.get(FORMAT) or FORMATS[0]
    if value not in FORMATS:
        raise CoatError("logs have no such format", field=FORMAT, value=value, allowed=FORMATS, next_step=f"unset {FORMAT}, or correct it")
    return value == FORMATS[1]


def active() -> bool:
    """Return whether this process writes structured logs."""
    return _state.descriptor is not None


def start(**keys: Any) -> bool:
    """Write structured logs from now on, if the environment asks for them; return whether it does.

    Args:
        keys: keys of every line, see `bind`.

    Raises:
        CoatError: `COAT_LOG` has another value.
    """
    if not wanted():
        return False
    if _state.descriptor is None:
        sys.stderr.flush()
        _state.descriptor = os.dup(2)
        bind(run=os.environ.get(RUN) or None)
        sys.stdout, sys.stderr = LineStream(), LineStream()
        sys.excepthook = _log_exception
        replace_console_handlers()
        logging.captureWarnings(True)
    bind(**keys)
    return True


def bind(**keys: Any) -> None:
    """Set keys of every further line of this process, e.g. `run`, `stage` or `mlflow_run`."""
    _state.bound |= keys


def bound(key: str) -> Any:
    """Return a key of every line; None if it is not set."""
    return _state.bound.get(key)


def event(name: str, message: str, *, level: int = logging.INFO, error: BaseException | None = None, **keys: Any) -> None:
    """Write one event, if this process writes structured logs."""
    if active():
        record = logging.LogRecord("coat", level, "", 0, message, (), (type(error), error, error.__traceback__) if error else None)
        setattr(record, EXTRA, {"event": name, **keys})
        write(line_of(record))


def fields(name: str, **keys: Any) -> dict[str, dict[str, Any]]:
    """Return the `extra` of a call of a logger, which makes an event of it."""
    return {EXTRA: {"event": name, **keys}}


def line_of(record: logging.LogRecord) -> str:
    """Return the line of a log record."""
    flow_run = getattr(record, "flow_run_id", None)
    keys = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "logger": record.name,
        "event": "log",
        "message": _message(record),
        **dict.fromkeys(("run", "stage", "mlflow_run")),
        **_state.bound,
        **({"run": str(flow_run)} if flow_run else {}),
        **getattr(record, EXTRA, {}),
    }
    if record.exc_info and record.exc_info[1] is not None:
        keys["error"] = error_of(record.exc_info[1])
    return json.dumps(_as_json(keys), default=str, allow_nan=False)


def error_of(error: BaseException) -> dict[str, Any]:
    """Return the key `error` of an error: its class, field, value and next step; for one that is no user's, the traceback."""
    if isinstance(error, CoatError):
        return {"class": type(error).__name__, "field": error.field, "value": error.value, "next_step": error.next_step}
    return {"class": type(error).__name__, "traceback": "".join(traceback.format_exception(error))}


def write(line: str) -> None:
    """Write one line at once, so that lines of several processes do not mix. A log that cannot be written stops nothing."""
    data = line.encode("ascii", "backslashreplace") + b"\n"
    with suppress(OSError), _state.lock:
        while data and _state.descriptor is not None:
            data = data[os.write(_state.descriptor, data) :]


def replace_console_handlers() -> None:
    """Let all loggers write structured lines: after a package has set up handlers of its own for the console."""
    loggers = [logging.getLogger(), *(found for found in logging.root.manager.loggerDict.values() if isinstance(found, logging.Logger))]
    for logger in loggers:
        console = [handler for handler in logger.handlers if _is_console(handler)]
        for handler in console:
            logger.removeHandler(handler)
        if console or (logger is logging.root and not any(isinstance(handler, JsonHandler) for handler in logger.handlers)):
            logger.addHandler(JsonHandler())


class JsonHandler(logging.Handler):
    """Writes each record once, also where several loggers pass it on."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        if not getattr(record, "coat_written", False):
            record.coat_written = True
            write(line_of(record))


class LineStream(io.TextIOBase):
    """A text stream whose lines are events `output`. Of a line that was written over (carriage return), the last state counts."""

    def __init__(self) -> None:
        self._part = ""
        self._part_lock = threading.Lock()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of what is written."""
        return "utf-8"

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the file descriptor that the lines go to."""
        if _state.descriptor is None:
            raise io.UnsupportedOperation("fileno")
        return _state.descriptor

    def isatty(self) -> bool:
        """Return False: no bars, no colours."""
        return False

    def write(self, text: str) -> int:
        """Write the lines that are complete now."""
        with self._part_lock:
            *lines, self._part = (self._part + text).split("\n")
        for line in lines:
            self._event(line)
        return len(text)

    def close(self) -> None:
        """Write what is left without an end of line."""
        with self._part_lock:
            line, self._part = self._part, ""
        self._event(line)
        super().close()

    def _event(self, line: str) -> None:
        shown = _ESCAPES.sub("", line.rstrip("\r").rpartition("\r")[2]).rstrip()
        if shown:
            event(_OUTPUT, shown)


def _message(record: logging.LogRecord) -> str:
    try:
        return _ESCAPES.sub("", record.getMessage())
    except (TypeError, ValueError):
        return str(record.msg)


def _as_json(value: Any) -> Any:
    """Return a value as JSON has it: other keys than texts as texts, numbers that are not finite as texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_as_json(item) for item in value]
    return value


def _is_console(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)


def _log_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    event("failed", f"{kind.__name__}: {error}", level=logging.CRITICAL, error=error)
