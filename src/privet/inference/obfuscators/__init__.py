"""Obfuscators: what a device makes of a sample before somebody else's model classifies it.

What leaves has the sample's shape, so whoever answers can't tell by the protocol whether it is a sample or not.
"""

from privet.inference.obfuscators.contract import Obfuscator as Obfuscator
from privet.inference.obfuscators.contract import Sides as Sides
from privet.inference.obfuscators.contract import UserModel as UserModel
