from __future__ import annotations

from tests.scripted.conftest import launch, library

__all__ = ["launch", "library"]
