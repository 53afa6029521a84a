"""Training protocols: one local step, one round loop, any engine."""

from privet.training.contract import Protocol
from privet.training.coordinator import Coordinator, Round
from privet.training.local import LocalStep, Task

__all__ = ["Coordinator", "LocalStep", "Protocol", "Round", "Task"]
