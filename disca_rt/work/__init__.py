"""The cost of a sample, by formula: floating-point operations and bytes. Runs nothing."""
