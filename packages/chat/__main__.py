# SPDX-License-Identifier: MIT
"""`python -m eelchat`."""
from eelchat import main

main()
