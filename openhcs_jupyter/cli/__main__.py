"""``python -m openhcs_jupyter.cli``."""

import sys

from openhcs_jupyter.cli import main

sys.exit(main())
