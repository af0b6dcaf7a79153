"""python -m emobench.sweep FILE: the same as `emobench sweep FILE`."""

import sys

if __name__ == "__main__":
    from emobench.cli.sweep import main

    sys.exit(main())
