"""Random programs, run plain and attached: the same values, and feedback that is |w| times the gradient."""
