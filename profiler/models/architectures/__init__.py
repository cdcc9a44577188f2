"""The architectures that come with tpprof, one file each."""
