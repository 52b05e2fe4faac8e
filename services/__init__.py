"""The three services. They are strangers to each other and meet through ``contracts.clients`` only."""
