"""The only memory of a run: records chained by hash."""

from privet.ledger.log import GENESIS, Log, Record, verify

__all__ = ["GENESIS", "Log", "Record", "verify"]
