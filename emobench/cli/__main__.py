import sys

from emobench.cli.main import main

sys.exit(main())
