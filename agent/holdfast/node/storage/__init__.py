"""Block devices, from whole disks to mounts and volumes."""
