"""``python -m diffcps`` is the ``diffcps`` command."""

from diffcps.cli import main

if __name__ == "__main__":
    main()
