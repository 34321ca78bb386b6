"""`python -m lmcbench`."""

from lmcbench.cli import main

if __name__ == "__main__":
    main()
