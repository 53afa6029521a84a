"""The coordinator's machine: everything that a fleet needs, started and ended together."""
