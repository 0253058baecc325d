"""`python -m node` is `clove`."""

from node.cli import main

if __name__ == "__main__":
    main()
