"""The page-cache capability: show, dump, load and evict."""
