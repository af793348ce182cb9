"""What clients may know of a served backbone, as messages."""

from __future__ import annotations

from midrib.server._intake.intake import Intake
from midrib.server._settings import Settings
from midrib.v1 import backbone_pb2


def limits_message(settings: Settings, intake: Intake) -> backbone_pb2.Limits:
    """What one call to this backbone may carry."""
    return backbone_pb2.Limits(
        max_message_bytes=settings.max_message_bytes,
        max_rows=intake.max_rows,
        max_stream_items=settings.max_stream_items,
    )
