"""`python -m vov.bitstream FILE.vov` prints every header field and the bytes of every part."""

import sys

from vov import VovError
from vov.bitstream import describe
from vov.runtime.signals import close_output

usage = "usage: python -m vov.bitstream FILE.vov\nPrints every header field and the bytes of every part."
if len(sys.argv) != 2:
    sys.exit(usage)
try:
    print(usage if sys.argv[1] in ("-h", "--help") else describe(sys.argv[1]))
    sys.stdout.flush()
except BrokenPipeError:
    close_output()
except VovError as error:
    sys.exit(f"error: {error}")
