from __future__ import annotations

from tests.support.model_server import endpoint, no_pauses

__all__ = ["endpoint", "no_pauses"]
