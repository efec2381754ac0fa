"""Files and where their bytes are on a disk, as boot loaders and firmware read them."""
