"""State transfer: a directory of one node fetched by another, proven, in passes."""
