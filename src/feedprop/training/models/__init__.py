"""Networks with a short name on the command line."""
