"""What a rollout is worth: rule-based parts, weighted and summed by a judge.  [Setup] [R1 2.2.2]"""
