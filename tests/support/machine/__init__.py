"""What the kernel gives: devices, file systems, mounts, namespaces, rights, and their faults."""
