"""Learning: packing, optimizer, schedule, checkpoints and exact resume."""
