"""Imperfections: what is wrong with the rows of honest devices; one a file."""
