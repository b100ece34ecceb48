"""What a person runs: one recipe in, one run directory out."""
