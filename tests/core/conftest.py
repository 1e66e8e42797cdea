"""The properties of the core are checked by hypothesis without a time limit for each example: the machine may be busy."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("core", deadline=None)
settings.load_profile("core")
