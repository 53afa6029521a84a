"""What holds for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings
from integration.loopback_example import loopback

from privet.apps.cli.main import main
from privet.engines.in_process import threads

# How long an example takes tells of the machine, not of the code: a busy one would fail tests by chance.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _weights_that_a_test_does_not_seed() -> None:
    """Starts every test with the same torch stream, so that no draw of weights fails a test once in a hundred runs."""
    torch.default_generator.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Runs a test with one torch thread; ``pytestmark = pytest.mark.usefixtures("one_thread")`` asks for it."""
    with threads(1):
        yield


@pytest.fixture
def port() -> int:
    """A port for what starts later: it stays free, since no other test and no outgoing connection gets it."""
    return int(loopback.free_ports())


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Calls the command ``privet`` in this process; returns its status, what it printed and what it complained of."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run
