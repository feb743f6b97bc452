"""`python -m lora_ext`."""

import sys

from .cli import main

sys.exit(main())
