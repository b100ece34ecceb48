"""The objectives: GRPO [V3 Eq. 26-28], likelihood, and their parts. Pure functions of tensors."""
