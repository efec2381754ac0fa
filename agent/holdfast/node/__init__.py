"""What this machine is: identity, memory, and the devices below each root."""
