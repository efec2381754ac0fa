"""Programs that a node or its operator talks to, real ones or with faults on request."""
