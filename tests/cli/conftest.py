from __future__ import annotations

from tests.probe.conftest import endpoint, no_pauses

__all__ = ["endpoint", "no_pauses"]
