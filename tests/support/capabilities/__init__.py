"""What the tests of one capability do again and again."""
