"""A capability: kernel settings by profile, planned, applied whole or not at all, and watched."""
