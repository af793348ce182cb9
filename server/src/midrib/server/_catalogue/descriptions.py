"""The descriptions of served backbones for clients, as messages."""

from __future__ import annotations

from midrib.registry import TextInput
from midrib.server._intake.intake import Intake
from midrib.server._settings import Settings
from midrib.v1 import backbone_pb2


def limits_message(settings: Settings, intake: Intake) -> backbone_pb2.Limits:
    """The limits of one call to this backbone."""
    return backbone_pb2.Limits(
        max_message_bytes=settings.max_message_bytes,
        max_rows=intake.max_rows,
        max_stream_items=settings.max_stream_items,
    )


def prompts_message(intake: Intake) -> backbone_pb2.Backbone:
    """Return the prompts of a backbone of texts; an empty message for others."""
    if not isinstance(intake.backbone.input, TextInput):
        return backbone_pb2.Backbone()
    return backbone_pb2.Backbone(default_prompt=intake.prompts.default, prompts=intake.prompts.named)
