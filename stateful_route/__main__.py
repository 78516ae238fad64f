"""``python -m stateful_route``: the same as ``stateful-route``."""

import sys

from stateful_route.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
