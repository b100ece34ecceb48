"""One model over several processes: which rank holds which part of each weight, and what they tell each other."""
