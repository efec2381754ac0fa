"""How commands are declared: options, examples, completion; made when they are used."""
