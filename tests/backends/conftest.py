"""Lets pytest explain the asserts of the shared suite."""

import pytest

pytest.register_assert_rewrite("tests.backends.conformance")
