"""What several tests share: oracles, calls, small networks, listed models."""
