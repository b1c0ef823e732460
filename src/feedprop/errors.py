"""The package's one error class for what the caller can mend."""


class FeedpropError(ValueError):
    """Something the caller can mend; the message says how."""
