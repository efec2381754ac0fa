"""What the imager is given: kernel, initramfs, job, and the identity that it carries over."""
