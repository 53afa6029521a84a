"""Behaviours: what a device does to its labels and its update; one a file."""
