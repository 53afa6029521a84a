"""Inference: answering questions for devices without seeing them."""
