"""Fleets: devices with hardware, rows, availability and behaviour; and the data sets they hold."""

from privet.fleet.build import build_fleet
from privet.fleet.data import Data, Dataset, checked
from privet.fleet.device import Device
from privet.fleet.profile import Profile, find_profile, profile_names

__all__ = ["Data", "Dataset", "Device", "Profile", "build_fleet", "checked", "find_profile", "profile_names"]
