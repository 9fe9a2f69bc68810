"""Where trajectories come from, one file per simulator or format."""
