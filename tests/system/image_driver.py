"""Fetches an image as a process of its own, which a test can kill: URL DESCRIPTOR DIRECTORY."""

import sys
from pathlib import Path

from holdfast._engine import Progress
from holdfast.reimage.images import ImageLibrary

url, descriptor, directory = sys.argv[1:]
library = ImageLibrary([Path(directory)], Path(directory))
print(library.fetch(url, Path(descriptor).read_bytes(), Path(directory), Progress()))
