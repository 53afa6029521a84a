"""Behaviours: what a device does to its rows and its update; one a file."""
