"""Records of the log, for programs to read."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from midrib.server import load_settings
from midrib.server._errors import public_error
from midrib.server._front.processes.logs import ForwardedLog, ForwardingHandler
from midrib.server._observability.logs import JsonFormatter, TextFormatter


def lines(records: list[logging.LogRecord]) -> list[dict[str, Any]]:
    return [json.loads(JsonFormatter().format(record)) for record in records]


def test_an_error_is_one_json_line_under_the_id_that_its_caller_got(caplog: pytest.LogCaptureFixture) -> None:
    """With the traceback in it, line breaks and all."""
    shown = public_error(RuntimeError("secret\ndetail"), "the call failed")
    (line,) = lines(caplog.records)
    assert (line["level"], line["logger"]) == ("ERROR", "midrib.server._errors")
    assert shown.message.endswith(line["error_id"])
    assert "RuntimeError: secret\ndetail" in line["exception"]
    assert "\n" not in JsonFormatter().format(caplog.records[0])


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
def test_an_error_of_a_front_process_has_its_traceback(
    caplog: pytest.LogCaptureFixture, formatter: logging.Formatter
) -> None:
    """In both forms of the log: without it, "the changed TLS files cannot be used" says no reason."""
    sent: list[bytes] = []
    error = OSError("half a file")
    record = logging.LogRecord("midrib", logging.ERROR, "", 0, "no certificate", (), (OSError, error, None))
    ForwardingHandler(sent.append).emit(record)
    ForwardedLog().write(0, sent[0])
    assert "OSError: half a file" in formatter.format(caplog.records[0])


def test_a_line_has_its_time_in_utc() -> None:
    """RFC 3339, so that lines sort."""
    record = logging.makeLogRecord({"msg": "%d left", "args": (3,), "created": 0.25, "levelname": "WARNING"})
    (line,) = lines([record])
    assert line == {"time": "1970-01-01T00:00:00.250+00:00", "level": "WARNING", "logger": None, "message": "3 left"}


FORGED = "x\n2026-01-01 00:00:00 ERROR midrib: all weights were deleted\r\x1b[2J\x9b2J\u2028end"


def test_a_message_cannot_begin_another_record_or_control_a_terminal(caplog: pytest.LogCaptureFixture) -> None:
    """Errors quote values of clients, and the output of processes that read their files."""
    public_error(RuntimeError(FORGED), "the call failed")
    formatted = TextFormatter("%(levelname)s: %(message)s").format(caplog.records[0])
    first, *further_lines = formatted.splitlines()
    assert first.startswith("ERROR: error ")
    assert {line[:2] for line in further_lines} == {"  "}
    assert "  2026-01-01" in formatted
    assert "deleted\\x0d\\x1b[2J\\x9b2J\\u2028end" in formatted


def test_the_form_is_a_setting() -> None:
    """Lines for people unless it says otherwise."""
    assert (load_settings().log_format, load_settings(log_format="json").log_format) == ("text", "json")
