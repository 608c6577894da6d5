# SPDX-License-Identifier: MIT
"""The shell: `python -m eelstore FILE`."""
import sys

from .shell import main

sys.exit(main())
