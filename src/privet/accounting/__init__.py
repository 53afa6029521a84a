"""What was done (events) apart from what it costs (accountants)."""

from privet.accounting.guarantee import Guarantee
from privet.accounting.sensitivity import Relation, Sensitivity, Unit

__all__ = ["Guarantee", "Relation", "Sensitivity", "Unit"]
