"""What the tests of sources share: one watcher, closed at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reconciler.sources.watch import Watcher


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    made = Watcher()
    yield made
    made.close()
