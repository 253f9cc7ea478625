"""What a sample costs, by formula: floating-point operations and bytes. Runs nothing."""
