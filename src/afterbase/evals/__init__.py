"""The river's third mouth: prompts -> rollouts -> rewards, and then counting."""
