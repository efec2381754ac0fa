"""Manifests: every file with its digest, to prove that a copy of the state is faithful."""
