"""From a prompt to a group of answers."""
