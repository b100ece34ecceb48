"""`python -m afterbase` is `afterbase`."""

from afterbase.cli import main

if __name__ == "__main__":
    main()
