"""The command line, on terminals, in documents and traced."""
