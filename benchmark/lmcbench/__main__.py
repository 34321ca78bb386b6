"""The command `lmcbench`, also as `python -m lmcbench`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Ctrl-C while it is being imported ends it as it does later."""
    try:
        from lmcbench.cli import main as run_command

        run_command()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
