"""Prints the dependencies that pyproject.toml names, a line each: `pip install` them before the code is there."""

import sys
import tomllib
from pathlib import Path

for dependency in tomllib.loads(Path(sys.argv[1]).read_text("utf-8"))["project"]["dependencies"]:
    print(dependency)
