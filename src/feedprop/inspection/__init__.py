"""What happens inside a network while it trains, and what its neurons and weights were worth."""
