"""Profiles: what their files say, how they inherit, and what is wrong with them."""
