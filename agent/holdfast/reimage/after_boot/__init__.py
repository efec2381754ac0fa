"""After a boot: which system this is, whether it is as it should be, and the way back."""
