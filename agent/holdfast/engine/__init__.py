"""How the Rust extension is asked, and what several capabilities ask it."""
