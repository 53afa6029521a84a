"""Planners: who holds which segment of a network, one a file."""

from privet.inference.distributed.planners.contract import Planner

__all__ = ["Planner"]
