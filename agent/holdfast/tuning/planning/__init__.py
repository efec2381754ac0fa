"""From a profile and the machine as it is to the writes that an apply takes."""
