"""What holds for all tests."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _weights_that_a_test_does_not_seed() -> None:
    """Starts every test with the same torch stream, so that no draw of weights fails a test once in a hundred runs."""
    torch.default_generator.manual_seed(0)
