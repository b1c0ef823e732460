"""The application around the library: `feedprop train` and `feedprop evaluate`."""
