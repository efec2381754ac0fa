"""Independent ways to the right answer, with other programs than those under test."""
