"""Data sets: where the rows of a run come from; one a file."""
