"""The engine across machines, on Flower's SuperLink; the only folder that imports flwr (``privet[flower]``)."""
