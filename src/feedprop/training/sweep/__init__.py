"""Search for hyperparameters, by several processes on several machines."""
