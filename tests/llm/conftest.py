from __future__ import annotations

from tests.support.model_server import no_pauses

__all__ = ["no_pauses"]
