"""``python -m rlaif.mock OPTIONS-AS-JSON``: what ``rlaif.mock.start`` runs; ends with its standard input."""

from __future__ import annotations

import sys

from rlaif.mock.options import MockOptions
from rlaif.mock.workers import serve

if __name__ == "__main__":
    serve(MockOptions.model_validate_json(sys.argv[1]), lambda line: print(line, flush=True), until_eof=True)
