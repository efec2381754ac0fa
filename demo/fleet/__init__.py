"""`make demo-fleet`: real daemons in namespaces, rolled into another image with faults."""
