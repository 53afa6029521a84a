"""Availabilities: when a device answers; one a file."""
