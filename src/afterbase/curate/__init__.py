"""Making training data: rejection sampling, filtering, rewriting and mixing."""
