"""One inference over many devices: networks, what their pieces cost, where they go, and what a helper then sees."""
