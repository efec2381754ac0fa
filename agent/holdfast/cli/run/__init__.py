"""How commands get work done: by a daemon over HTTP, or in this process with `--local`."""
