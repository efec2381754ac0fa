"""Boot loaders: each boots the imager once, and takes that back by itself."""
