"""python -m emobench.sweep FILE: the same as `emobench sweep FILE`."""

import sys

if __name__ == "__main__":
    from emobench.cli.main import main

    sys.exit(main(command="sweep", prog="python -m emobench.sweep"))
