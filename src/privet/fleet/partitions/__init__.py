"""Partitions: which rows lie on which device; one a file."""
