"""HDF5 demonstrations of LIBERO and robomimic."""
