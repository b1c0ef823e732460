"""How credit passes each torch function."""
