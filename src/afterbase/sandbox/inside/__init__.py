"""What runs outside of our own process: a launcher for each worker, and what becomes the first process of each job.

Standard library only, and nothing from the rest of the package: the interpreter that jobs get runs it, without our dependencies.
"""
