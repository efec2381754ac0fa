"""How a roll is shown: in a terminal, as a page, as metrics."""
