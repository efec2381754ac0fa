"""What a person sees: text, tables, units, progress and errors."""
