"""Several methods under one protocol: what is compared, the runs, and what was found."""
