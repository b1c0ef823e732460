"""How the calls of a running model reach the handlers."""
