"""python -m emobench COMMAND, where the `emobench` script is not on the path."""

import sys

from emobench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
