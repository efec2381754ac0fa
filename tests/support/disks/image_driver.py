"""Fetches an image as a process of its own, which a test can kill: URL DESCRIPTOR DIRECTORY."""

import hashlib
import sys
from pathlib import Path

from holdfast._engine import Progress
from holdfast.reimage.images import ImageLibrary
from holdfast.reimage.images.library import Obtained

url, descriptor, directory = sys.argv[1:]
where = Path(directory)
library = ImageLibrary([where], where, trusted_keys=where / "keys")
data = Path(descriptor).read_bytes()
found = Obtained(data, hashlib.sha256(data).hexdigest())
print(library.fetch(url, found, where, Progress()))
