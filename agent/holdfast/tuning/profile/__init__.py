"""Profiles: the content of their files, how they inherit, and what is wrong with them."""
