"""The agent on a device: its identity, its consent, its budget, and the work that it lets in."""
