"""`holdfast pagecache`."""
