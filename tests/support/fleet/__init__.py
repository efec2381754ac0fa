"""What the tests of rolls and of the fleet's lock share."""
