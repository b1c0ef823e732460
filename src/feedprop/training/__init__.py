"""The application around the library: what `feedprop train` and `feedprop evaluate` are made of."""
